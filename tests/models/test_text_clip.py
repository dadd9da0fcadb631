"""Embeddings of texts and clips per expert: what absent experts leave, and what a wrong setting says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError
from lightning_mm.models import EmbeddingExperts, TokenEncoder, VectorEncoder
from lightning_mm.models.text_clip.gated import GatedEmbedding
from lightning_mm.testing import assert_missing_invariant

NAMES = ["face", "voice"]


def network(**settings: Any) -> EmbeddingExperts:
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {"face": VectorEncoder(5), "voice": VectorEncoder(3)}
    return EmbeddingExperts(encoders, TokenEncoder(9, out_channels=16), **{"width": 8, **settings})


def clips(size: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"face": torch.randn(size, 5, generator=generator), "voice": torch.randn(size, 3, generator=generator)}


def texts() -> dict[str, Tensor]:
    ids = torch.tensor([[3, 4, 5], [6, 0, 0]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_the_gate_is_that_of_the_reference() -> None:
    torch.manual_seed(0)
    layer, values = GatedEmbedding(4, 6), torch.randn(5, 4)
    hidden = layer.linear(values)
    assert layer.norm is not None
    gate = layer.gate(hidden)
    gate = (gate - gate.mean(0)) / (gate.var(0, correction=0) + layer.norm.eps).sqrt()
    expected = F.glu(torch.cat([hidden, gate], 1), 1)  # as MMT writes it
    torch.testing.assert_close(layer(values), expected / expected.norm(dim=1, keepdim=True))


def test_embeddings_have_length_one_and_weights_the_sum_one() -> None:
    own = network().eval()
    found, (text, weights) = own(clips()), own.encode_text(texts())
    for one in (found, text):
        torch.testing.assert_close(one.norm(dim=2), torch.ones(one.shape[:2]))
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert own.scale().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        own.log_scale += 9
    assert own.scale().item() == 100


def test_an_expert_does_not_depend_on_another() -> None:
    own = network().eval()
    inputs = clips()
    other = {**inputs, "voice": inputs["voice"] + 1}
    assert torch.equal(own(inputs)[:, 0], own(other)[:, 0])
    assert not torch.equal(own(inputs)[:, 1], own(other)[:, 1])


@pytest.mark.parametrize("training", [True, False])
def test_absent_experts_are_zero_and_leave_nothing(training: bool) -> None:
    own = network().train(training)
    mask = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    found = own(clips(), mask)
    assert not found[~mask].any()
    assert found[mask].any(1).all()
    assert_missing_invariant(own, NAMES, clips())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.001}, "temperature: expected 0.01 or more, got 0.001"),
        ({"width": 0}, "width"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        network(**settings)


def test_encoders_say_how_wide_they_are() -> None:
    with pytest.raises(LightningMMError, match="text: Linear must say how wide"):
        EmbeddingExperts({"face": VectorEncoder(5)}, nn.Linear(2, 2))
    with pytest.raises(LightningMMError, match="'face'"):
        EmbeddingExperts({"face": nn.Linear(2, 2)}, TokenEncoder(9))


def test_a_batch_of_one_needs_no_batch_statistics() -> None:
    with pytest.raises(LightningMMError, match=r"batch of one sample; set data\.drop_last to true"):
        network().train()(clips(1))
    assert network(batch_norm=False).train()(clips(1)).shape == (1, 2, 8)
