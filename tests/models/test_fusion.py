"""Fusion: what is absent never enters, and complete batches give the plain result."""

from __future__ import annotations

import pytest
import torch

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.models import AttentionFusion, ConcatFusion, Fusion, MaxFusion, MeanFusion

FUSIONS = [MeanFusion, MaxFusion, ConcatFusion, AttentionFusion]
NAMES = Modalities(["a", "b", "c"])


def build(kind: type[Fusion], widths: list[int], seed: int = 0) -> Fusion:
    """A fusion whose parameters are away from their start, where several kinds coincide."""
    fusion = kind(widths)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return fusion


def maps(widths: list[int], batch: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, width, 2, 3, generator=generator) for width in widths]


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("widths", [[4, 4, 4], [4, 2, 3], [4, 0, 4]])
def test_absent_values_reach_neither_output_nor_gradient(kind: type[Fusion], widths: list[int]) -> None:
    fusion = build(kind, widths)
    available = NAMES.masks()
    clean = maps(widths, len(available))

    def run(poison: float | None) -> list[torch.Tensor]:
        features = [
            (f if poison is None else f.masked_fill(~available[:, m].view(-1, 1, 1, 1), poison)).requires_grad_()
            for m, f in enumerate(clean)
        ]
        out = fusion(features, available)
        used = [f for f in features if f.shape[1]]
        grads = torch.autograd.grad(out.pow(2).sum(), [*used, *fusion.parameters()])
        for feature, grad in zip(used, grads):
            position = next(m for m, f in enumerate(features) if f is feature)
            assert (grad[~available[:, position]] == 0).all()
            assert (grad[available[:, position]] != 0).any()
        return [out, *grads]

    expected = run(None)
    for poison in (float("nan"), float("inf"), 1e9):
        for got, want in zip(run(poison), expected):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("kind", FUSIONS)
def test_no_mask_is_a_mask_of_ones_bit_for_bit(kind: type[Fusion]) -> None:
    fusion, features = build(kind, [4, 2, 4]), maps([4, 2, 4], 5)
    assert torch.equal(fusion(features), fusion(features, torch.ones(5, 3, dtype=torch.bool)))


@pytest.mark.parametrize("kind", FUSIONS)
def test_mixed_rows_equal_one_by_one(kind: type[Fusion]) -> None:
    fusion, available = build(kind, [4, 4, 4]), NAMES.masks()
    features = maps([4, 4, 4], len(available))
    together = fusion(features, available)
    for row in range(len(available)):
        alone = fusion([f[row : row + 1] for f in features], available[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_mean_of_a_complete_batch_is_the_plain_mean_bit_for_bit(count: int) -> None:
    features = maps([8] * count, 3)
    fused = MeanFusion([8] * count)(features, torch.ones(3, count, dtype=torch.bool))
    assert torch.equal(fused, sum(features[1:], features[0]) / count)
    torch.testing.assert_close(fused, torch.stack(features).mean(0))  # adds in another order from 5 on


@pytest.mark.parametrize("combination", NAMES.combinations())
def test_against_a_loop_over_what_is_there(combination: str) -> None:
    features, mask = maps([4, 4, 4], 2), NAMES.mask(combination)
    there = torch.stack([f for f, flag in zip(features, mask) if flag])
    available = mask.expand(2, 3)
    torch.testing.assert_close(MeanFusion([4] * 3)(features, available), there.mean(0))
    torch.testing.assert_close(MaxFusion([4] * 3)(features, available), there.amax(0), rtol=0, atol=0)
    attention = build(AttentionFusion, [4] * 3)
    scores = torch.stack([s(f) for s, f, flag in zip(attention.scores, features, mask) if flag])
    torch.testing.assert_close(attention(features, available), (scores.softmax(0) * there).sum(0))
    concat = build(ConcatFusion, [4] * 3)
    zeroed = torch.cat([f * flag for f, flag in zip(features, mask)], dim=1)
    torch.testing.assert_close(concat(features, available), concat.mix(zeroed))


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_row_without_anything_is_finite(kind: type[Fusion]) -> None:
    out = kind([4, 4])(maps([4, 4], 2), torch.tensor([[False, False], [True, False]]))
    assert (out[0] == 0).all()
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", [ConcatFusion, AttentionFusion])
def test_starts_as_the_mean(kind: type[Fusion]) -> None:
    features = maps([4, 4, 4], 2)
    torch.testing.assert_close(kind([4, 4, 4])(features), torch.stack(features).mean(0))


def test_half_precision_keeps_its_type() -> None:
    for kind in FUSIONS:
        out = kind([4, 4]).bfloat16()([f.bfloat16() for f in maps([4, 4], 2)], torch.tensor([[True, False]] * 2))
        assert out.dtype == torch.bfloat16


def test_a_scale_that_no_encoder_has_stays_empty() -> None:
    assert MeanFusion([0, 0])(maps([0, 0], 2), torch.ones(2, 2, dtype=torch.bool)).shape == (2, 0, 2, 3)


def test_errors() -> None:
    with pytest.raises(LightningMMError, match="fusion of 2 modalities got 3 feature maps"):
        MeanFusion([4, 4])(maps([4, 4, 4], 2))
    with pytest.raises(LightningMMError, match="channel count >= 0"):
        MeanFusion([])
