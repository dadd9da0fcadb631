"""MulT against the numbers of its released code: outputs of all combinations, features on the way, keys of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.models import MulT
from lightning_mm.models.mult.encoder import sinusoids

NAME = "b_mult_mosi_aligned"
WIDTHS = {"text": 300, "audio": 5, "vision": 20}
LETTERS = {"l": "text", "a": "audio", "v": "vision"}
UNUSED = ("version", "_float_tensor")


@pytest.fixture(scope="module")
def notes(golden_root: Path) -> dict[str, Any]:
    return json.loads((golden_root / f"{NAME}.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden_root: Path) -> dict[str, Tensor]:
    with np.load(golden_root / f"{NAME}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


@pytest.fixture(scope="module")
def weights(recipe: ModuleType, notes: dict[str, Any]) -> dict[str, Tensor]:
    state = recipe.official_weights(notes)
    found = recipe.weights_fingerprint(state)
    assert found["numel"] == notes["fingerprint"]["numel"]
    assert found["sum"] == pytest.approx(notes["fingerprint"]["sum"], rel=1e-6)
    return state


@pytest.fixture
def network(weights: dict[str, Tensor]) -> MulT:
    network = MulT(WIDTHS).eval()
    network.load_reference(weights)
    return network


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def inputs(arrays: dict[str, Tensor], present: list[str]) -> dict[str, Tensor]:
    """Zeros for what is absent."""
    return {name: arrays[f"input__{name}"] * (name in present) for name in WIDTHS}


def test_outputs_of_every_combination(network: MulT, notes: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    last: list[Tensor] = []
    network.fusion_in.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    outputs = [key.removeprefix("output__") for key in arrays if key.startswith("output__")]
    assert len(outputs) == 7
    for combination in outputs:
        with torch.no_grad():
            found = network(inputs(arrays, combination.split("+")))
        assert error(found, arrays[f"output__{combination}"]) < notes["tolerance"]["rtol"], combination
        assert error(last.pop(), arrays[f"last_hs__{combination}"]) < notes["tolerance"]["rtol"], combination


def modules(network: MulT) -> Iterator[tuple[str, torch.nn.Module]]:
    """The released code's names of our modules."""
    for letter, name in LETTERS.items():
        yield f"proj_{letter}", network.projections[name]
        yield f"trans_{letter}_mem", network.memories[name]
        for other in LETTERS.keys() - {letter}:
            yield f"trans_{letter}_with_{other}", network.crossmodal[name][LETTERS[other]]  # type: ignore[index]
    first = network.crossmodal["text"]["audio"].layers[0]  # type: ignore[index]
    yield "trans_l_with_a.layers.0", first
    yield "trans_l_with_a.layers.0.self_attn", first.attention


def test_features_on_the_way(network: MulT, notes: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    seen: dict[str, Tensor] = {}
    for key, module in modules(network):
        module.register_forward_hook(lambda module, args, output, key=key: seen.__setitem__(key, output))
    with torch.no_grad():
        network(inputs(arrays, list(WIDTHS)))
    assert set(seen) == {key.removeprefix("head__") for key in arrays if key.startswith("head__")}
    for key, output in seen.items():
        # Batch first is ours; the released code has (B, C, T) in its convolutions and (T, B, C) behind them.
        output = output.transpose(1, 2) if key.startswith("proj") else output.transpose(0, 1)
        assert list(output.shape) == arrays[f"shape__{key}"].tolist(), key
        assert error(output.flatten()[:64], arrays[f"head__{key}"]) < notes["tolerance"]["rtol"], key
        assert output.std().item() == pytest.approx(arrays[f"std__{key}"].item(), rel=1e-4), key


@pytest.mark.parametrize("width", [30, 60])
def test_positions(arrays: dict[str, Tensor], width: int) -> None:
    table = arrays[f"pos_table_d{width}"]  # its row 0 is that of no position
    torch.testing.assert_close(sinusoids(len(table) - 1, width), table[1:], rtol=1e-5, atol=1e-6)
    assert not table[0].any()


def test_there_and_back(network: MulT, weights: dict[str, Tensor]) -> None:
    back = network.to_reference()
    assert set(back) == set(weights)
    for key, value in weights.items():
        assert back[key].shape == value.shape, key
        assert key.endswith(UNUSED) or torch.equal(back[key], value), key
    twin = MulT(WIDTHS)
    twin.load_reference(back)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in twin.state_dict().items())


def test_every_form_of_the_released_weights(network: MulT, weights: dict[str, Tensor]) -> None:
    bare = {key: value for key, value in weights.items() if not key.endswith(UNUSED)}
    assert len(weights) - len(bare) == 2 * 9
    parallel = {f"module.{key}": value for key, value in weights.items()}
    for form in (bare, parallel, {"state_dict": parallel, "epoch": 3}):
        with torch.no_grad():
            network.head.bias.zero_()  # so that something is there to load
        network.load_reference(form)
        assert torch.equal(network.head.bias, weights["out_layer.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("proj_l.weight"), r"the state_dict lacks proj_l\.weight; take .*MULTModel"),
        (lambda state: state.update(extra=torch.zeros(1)), "has unknown extra; take"),
        (
            lambda state: state.update({"proj_l.weight": torch.zeros(30, 768, 1)}),
            r"has other shapes: proj_l\.weight \(30, 768, 1\) instead of \(30, 300, 1\)",
        ),
        (lambda state: state.update({"proj1.bias": [1.0]}), r"lacks proj1\.bias"),
    ],
)
def test_weights_of_another_network_are_named_and_change_nothing(
    weights: dict[str, Tensor], change: Any, message: str
) -> None:
    state, network = dict(weights), MulT(WIDTHS)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    change(state)
    with pytest.raises(LightningMMError, match=message):
        network.load_reference(state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_other_levels_and_modalities_are_named(weights: dict[str, Tensor]) -> None:
    with pytest.raises(LightningMMError, match=r"has unknown trans_l_with_a\.layers\.4\.\S+, .* \d+ more; take"):
        MulT(WIDTHS, levels=4).load_reference(weights)
    with pytest.raises(LightningMMError, match=r"\['text', 'audio', 'vision'\], this network has \['text', 'video'\]"):
        MulT({"text": 300, "video": 20}).load_reference(weights)
