"""Adapters on the package's own segmenter, with CNN and transformer encoders of segmentation-models-pytorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_mm.adapters import SSF, Adapted, Additive, Basis, OneHot, adapt
from lightning_mm.modalities import Modalities
from lightning_mm.models import MultiEncoderSegmenter
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise, trained_statistics

CHANNELS = {"rgb": 3, "depth": 1, "thermal": 1}
NAMES = Modalities(CHANNELS)
BASES = [OneHot, Additive]


def inputs(batch: int, size: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return {name: torch.randn(batch, width, size, size, generator=generator) for name, width in CHANNELS.items()}


def make(encoder: str, basis: type[Basis], fusion: str = "mean", mask_absent: bool = True) -> Adapted:
    torch.manual_seed(0)
    depth = 4 if encoder == "mit_b0" else 3
    network = MultiEncoderSegmenter(
        CHANNELS,
        4,
        encoder,
        encoder_depth=depth,
        fusion=fusion,  # type: ignore[arg-type]
        decoder_channels=[16, 8, 8, 8][:depth],
        mask_absent=mask_absent,
    )
    trained_statistics(network)
    adapted = adapt(network, NAMES, SSF(), basis=basis(), example=((inputs(2),), {}))
    randomise(adapted, scale=0.1)
    return adapted


@pytest.mark.parametrize(
    ("encoder", "mask_absent", "basis"),
    [
        *(("resnet18", True, basis) for basis in BASES),
        ("resnet18", False, Additive),
        pytest.param("mit_b0", True, Additive, marks=pytest.mark.slow),
    ],
)
def test_mixed_batch_equals_one_by_one_and_folds(encoder: str, mask_absent: bool, basis: type[Basis]) -> None:
    adapted = make(encoder, basis, mask_absent=mask_absent)
    batch, available = inputs(7), NAMES.masks()
    with torch.no_grad():
        together = adapted(batch, available=available)
        for row, combination in enumerate(NAMES.combinations()):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            alone = adapted(one, available=available[row : row + 1])
            folded = adapted.fold(combination)(one)
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(folded, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0"])
def test_full_combination_is_bit_identical_to_the_base(encoder: str) -> None:
    adapted = make(encoder, Additive)
    batch, full = inputs(2), torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        swept = adapted(batch, available=full)
        alone = adapted.remove().eval()(batch, full)
    assert torch.equal(swept, alone)


@pytest.mark.parametrize(
    ("fusion", "basis"),
    [("mean", OneHot), *((fusion, Additive) for fusion in ("mean", "max", "concat", "attention"))],
)
def test_poison_reaches_nothing(fusion: str, basis: type[Basis]) -> None:
    adapted = make("resnet18", basis, fusion)
    assert_missing_invariant(adapted, NAMES, inputs(2, size=16))


@pytest.mark.parametrize("basis", BASES)
def test_poison_reaches_nothing_in_a_network_that_ignores_available(basis: type[Basis]) -> None:
    assert_missing_invariant(make("resnet18", basis, mask_absent=False), NAMES, inputs(2, size=16))


def test_rows_for_the_encoder_of_an_absent_modality_get_zero_gradient() -> None:
    adapted = make("resnet18", OneHot)
    available = NAMES.mask("rgb+thermal").expand(2, -1)
    adapted(inputs(2), available=available).square().mean().backward()
    sums = {site.name: _gradient(adapted, site.name) for site in adapted.adapter.sites}
    assert all(value == 0 for name, value in sums.items() if name.startswith("encoders.depth"))
    assert sum(value for name, value in sums.items() if name.startswith("encoders.rgb")) > 0


def test_adapter_adds_less_than_one_percent_per_combination() -> None:
    network = MultiEncoderSegmenter(CHANNELS, 4, "resnet18", encoder_depth=4, decoder_channels=[128, 64, 32, 16])
    adapted = adapt(network, NAMES, SSF(), basis=OneHot(), example=((inputs(2),), {}))
    total = sum(parameter.numel() for parameter in network.parameters())
    per_row = sum(2 * site.channels for site in adapted.adapter.sites)
    assert adapted.adapter.parameters_per_combination() == per_row
    assert per_row < 0.01 * total


def _gradient(adapted: Adapted, site: str) -> float:
    bank = adapted.adapter.banks[site.replace(".", "/")]
    return sum(float(parameter.grad.abs().sum()) for parameter in bank.parameters() if parameter.grad is not None)
