"""CMNeXt against its official implementation: all combinations, absent ones zero; names and shapes of its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_mm import Modalities
from lightning_mm.models import CMNeXt

B0, B2, FOUR = "a1b_cmnext_b0_img_thermal_9c", "a1_cmnext_b2_img_thermal_9c", "a3_cmnext_b2_mcubes_20c"


class Golden:
    """One set: its notes, arrays, and the network with its weights."""

    def __init__(self, root: Path, recipe: Any, name: str) -> None:
        self.notes = json.loads((root / f"{name}.json").read_text(encoding="utf-8"))
        with np.load(root / f"{name}.npz") as file:
            self.arrays = {key: torch.from_numpy(file[key]) for key in file}
        self.weights: dict[str, Tensor] = recipe.official_weights(self.notes)
        assert recipe.weights_fingerprint(self.weights)["numel"] == self.notes["fingerprint"]["numel"]
        self.relative_error = recipe.rel_err
        settings = self.notes["constructor"]
        self.names = Modalities(settings["modals"])
        self.network = CMNeXt(settings["backbone"][-2:], list(self.names), settings["num_classes"])  # type: ignore[arg-type]
        self.network.eval().load_reference(self.weights)

    def inputs(self, combination: str) -> dict[str, Tensor]:
        present = combination.split("+")
        images = {name: self.arrays[f"input__{name}"] for name in self.names}
        return {name: image if name in present else torch.zeros_like(image) for name, image in images.items()}


@pytest.fixture
def load(golden_root: Path, recipe: Any) -> Callable[[str], Golden]:
    """Reads a set by its name."""
    return lambda name: Golden(golden_root, recipe, name)


@pytest.mark.parametrize(
    "name", [B0, pytest.param(B2, marks=pytest.mark.slow), pytest.param(FOUR, marks=pytest.mark.slow)]
)
def test_logits_of_all_combinations(load: Callable[[str], Golden], name: str) -> None:
    golden = load(name)
    stored = {key.removeprefix("logits__"): value for key, value in golden.arrays.items() if key.startswith("logits__")}
    assert set(stored) == set(golden.names.combinations())
    for combination, expected in stored.items():
        with torch.no_grad():
            logits = golden.network(golden.inputs(combination))
        error = golden.relative_error(logits, expected)
        assert error < golden.notes["tolerance"]["rtol"], combination


@pytest.mark.parametrize("name", [B0, pytest.param(FOUR, marks=pytest.mark.slow)])
def test_features_of_every_stage(load: Callable[[str], Golden], name: str) -> None:
    golden = load(name)
    network, seen = golden.network, {}
    watched = {"head.logits_quarter": network.head}
    for stage in range(4):
        watched[f"norm{stage + 1}"] = network.main[stage].norm
        watched[f"extra_block{stage + 1}.last"] = network.auxiliary[stage].blocks
        watched[f"FFM{stage + 1}"] = network.fuse[stage]
    for key, module in watched.items():
        module.register_forward_hook(lambda module, args, output, key=key: seen.update({key: output}))
    with torch.no_grad():
        network(golden.inputs("+".join(golden.names)))
    for key, value in seen.items():
        assert list(value.shape) == golden.arrays[f"shape__{key}"].tolist(), key
        head = golden.arrays[f"head__{key}"]
        assert golden.relative_error(value.flatten()[: len(head)], head) < golden.notes["tolerance"]["rtol"], key
        assert value.std().item() == pytest.approx(golden.arrays[f"std__{key}"].item(), rel=1e-4), key


@pytest.mark.parametrize("name", [B0, pytest.param(FOUR, marks=pytest.mark.slow)])
def test_weights_go_there_and_back(load: Callable[[str], Golden], name: str) -> None:
    golden = load(name)
    back = golden.network.to_reference()
    assert back.keys() == golden.weights.keys()
    assert all(torch.equal(back[key], value) for key, value in golden.weights.items())


def test_with_one_other_modality_nothing_is_reshaped(load: Callable[[str], Golden]) -> None:
    golden = load(B0)
    full = "+".join(golden.names)
    golden.network.reference_reshape = False
    with torch.no_grad():
        logits = golden.network(golden.inputs(full))
    assert golden.relative_error(logits, golden.arrays[f"logits__{full}"]) < golden.notes["tolerance"]["rtol"]


@pytest.mark.slow
def test_without_the_reshape_of_the_reference_four_modalities_differ(load: Callable[[str], Golden]) -> None:
    golden = load(FOUR)
    full = "+".join(golden.names)
    golden.network.reference_reshape = False
    with torch.no_grad():
        logits = golden.network(golden.inputs(full))
    assert golden.relative_error(logits, golden.arrays[f"logits__{full}"]) > 0.1
