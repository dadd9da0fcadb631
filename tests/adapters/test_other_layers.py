"""Layers of other numbers of dimensions than their relatives in the table of adapters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.adapter_networks import randomise
from tests.support.adapter_table import LAYERS, NAMES, WIDTH, Layer, adapted_case, inputs, network

OTHERS = {
    "ConvTranspose1d": Layer(lambda: nn.ConvTranspose1d(WIDTH, WIDTH, 2, stride=2), (WIDTH, 4)),
    "ConvTranspose3d": Layer(lambda: nn.ConvTranspose3d(WIDTH, WIDTH, 2), (WIDTH, 2, 3, 2)),
    "BatchNorm1d": Layer(lambda: nn.BatchNorm1d(WIDTH), (WIDTH, 5)),
    "BatchNorm3d": Layer(lambda: nn.BatchNorm3d(WIDTH), (WIDTH, 2, 3, 2)),
    "InstanceNorm1d": Layer(lambda: nn.InstanceNorm1d(WIDTH, affine=True), (WIDTH, 5)),
    "InstanceNorm3d": Layer(lambda: nn.InstanceNorm3d(WIDTH, affine=True), (WIDTH, 2, 3, 2)),
}


KINDS = ["SSF", "ScaleOnly", "ShiftOnly", "BitFit", "NormTuning"]
PAIRS = [(kind, layer) for kind in KINDS for layer in OTHERS if kind != "NormTuning" or "Norm" in layer]


@pytest.mark.parametrize(("kind", "layer"), PAIRS)
def test_mixed_batches_gradients_and_folding(kind: str, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYERS, layer, OTHERS[layer])
    adapted = adapted_case(kind, layer)
    masks, given = NAMES.masks(), inputs(layer)
    mixed = adapted(**given, available=masks)
    assert not torch.allclose(mixed[:-1], adapted_case(kind, layer, moved=False)(**given, available=masks)[:-1])
    for row in range(len(masks)):
        alone = adapted(**{n: v[row : row + 1] for n, v in given.items()}, available=masks[row : row + 1])
        torch.testing.assert_close(alone, mixed[row : row + 1], rtol=1e-5, atol=1e-5)
    mixed.square().sum().backward()
    for parameter in adapted.adapter.banks.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    with torch.no_grad():
        for row, combination in enumerate(NAMES.combinations()):
            folded = adapted.fold(combination)
            torch.testing.assert_close(folded(**given)[row], mixed[row].detach(), rtol=1e-5, atol=1e-5)
    randomise(adapted)
    removed, base = adapted.remove(), network(layer)
    assert torch.equal(removed(**given), base(**given))
