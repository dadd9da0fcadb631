"""LoRA with one change for all incomplete combinations: equal to LoRA on the basis Shared, whatever the basis."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_mm.adapters import SSF, Adapted, Additive, Basis, Hyper, LoRA, OneHot, Shared, Together, adapt, load
from tests.support.adapter_networks import randomise
from tests.support.adapter_table import NAMES, inputs, network

MASKS = NAMES.masks()
LAYERS = ["Linear", "Conv1d", "Conv2d", "Embedding"]
BASES: list[type[Basis]] = [OneHot, Additive, Hyper]
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of")


def build(layer: str, basis: Basis, shared: bool) -> Adapted:
    torch.manual_seed(3)
    kind = LoRA(2, alpha=3.0, layers=["layer"], shared=shared)
    adapted = adapt(network(layer), NAMES, kind, basis=basis, example=((), inputs(layer, 2)), targets=["layer"])
    randomise(adapted.adapter.banks)
    return adapted


def run(adapted: Adapted, layer: str) -> Tensor:
    return adapted(**inputs(layer, len(MASKS)), available=MASKS)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_the_basis_shared(layer: str, basis: type[Basis], tmp_path: Path) -> None:
    mine, reference = build(layer, basis(), shared=True), build(layer, Shared(), shared=False)
    torch.testing.assert_close(run(mine, layer), run(reference, layer), rtol=0, atol=0)
    grads = []
    for adapted in (mine, reference):
        run(adapted, layer).square().sum().backward()
        grads.append([one.grad for one in adapted.adapter.banks.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
    counts = [one.adapter.parameters_per_combination() for one in (mine, reference)]
    assert counts[0] == counts[1] == sum(one.numel() for one in mine.adapter.banks.parameters())
    mine.save(tmp_path)
    assert torch.equal(run(load(tmp_path, network(layer)), layer), run(mine, layer))
    with torch.no_grad():
        for combination in NAMES.combinations():
            given = inputs(layer, 4)
            expected = mine(**given, available=NAMES.mask(combination).expand(4, -1))
            torch.testing.assert_close(mine.fold(combination)(**given), expected, rtol=1e-5, atol=1e-5)


def test_the_full_combination_is_the_base_whatever_the_change_is() -> None:
    adapted = build("Conv1d", Additive(), shared=True)
    with torch.no_grad():
        for parameter in adapted.adapter.banks.parameters():
            parameter.fill_(torch.nan)
        found = run(adapted, "Conv1d")
        base = network("Conv1d")(**inputs("Conv1d", len(MASKS)))
    complete = MASKS.all(1)
    assert torch.equal(found[complete], base[complete])
    assert found[~complete].isnan().all()


def test_next_to_a_kind_with_rows() -> None:
    torch.manual_seed(3)
    kind = Together([SSF(), LoRA(2, layers=["layer"], shared=True)])
    adapted = adapt(network("Linear"), NAMES, kind, basis=Additive(), example=((), inputs("Linear", 2)))
    shapes = {name: tuple(one.shape) for name, one in adapted.adapter.banks["layer"].named_parameters()}
    assert shapes == {
        "banks.0.scale": (3, 6),
        "banks.0.shift": (3, 6),
        "banks.1.down": (1, 2, 6),
        "banks.1.up": (1, 2, 6),
    }
    assert adapted.adapter.parameters_per_combination() == 2 * (6 + 6) + 2 * (6 + 6)
