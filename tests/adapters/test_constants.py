"""Encoders of absent modalities as constants: nothing is computed, nothing is kept, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Adapted, Additive, adapt
from lightning_mm.errors import LightningMMError
from lightning_mm.export import Runtime, export_adapted
from lightning_mm.missing import Noise
from lightning_mm.tree import map_tensors
from tests.support.absent_rows import NAMES, InPlace, inputs, make
from tests.support.adapter_networks import randomise

EXAMPLE = ((inputs(2),), {})


def other_inputs(batch: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)

    def drawn(leaf: Tensor) -> Tensor:
        return torch.randn(leaf.shape, generator=generator) if leaf.is_floating_point() else leaf

    return map_tensors(inputs(batch), drawn)


@pytest.mark.parametrize("mask_absent", [False, True])
@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_constants_are_the_hooks_without_the_weights(mask_absent: bool, fill: str) -> None:
    settings = {} if fill == "zeros" else {"fill": Noise()}
    adapted = make(Additive(), None, mask_absent, **settings)
    before = copy.deepcopy(adapted.base.state_dict())
    for combination in NAMES.combinations():
        plain, folded = adapted.fold(combination), adapted.fold(combination, EXAMPLE)
        present = NAMES.parse(combination)
        for name in NAMES:
            own = list(folded.network.encoders[name].parameters())
            assert bool(own) == (name in present), (combination, name)
            assert folded.network.encoders[name].__class__ is plain.network.encoders[name].__class__
        assert set(dict(folded.network.named_parameters())) <= set(dict(plain.network.named_parameters()))
        for batch in (1, 8):
            given = other_inputs(batch)
            with torch.no_grad():
                expected = adapted(given, available=NAMES.mask(combination).expand(batch, -1))
                for _ in range(2):
                    torch.testing.assert_close(folded(given), expected, rtol=1e-5, atol=1e-5)
                    torch.testing.assert_close(folded(given), plain(given), rtol=0, atol=0 if batch == 8 else 1e-6)
    assert all(torch.equal(value, before[key]) for key, value in adapted.base.state_dict().items())


def test_copies_pickles_state_and_precision() -> None:
    folded = make(Additive()).fold("text", EXAMPLE)
    expected = folded(inputs())
    for copied in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert torch.equal(copied(inputs()), expected)
        copied.double()
        given = {key: value.double() for key, value in inputs().items() if isinstance(value, Tensor)}
        motion = inputs()["motion"]
        given["motion"] = {"values": motion["values"].double(), "length": motion["length"]}
        torch.testing.assert_close(copied(given).float(), expected)
    assert torch.equal(folded(inputs()), expected)
    fresh = make(Additive()).fold("text", EXAMPLE)
    fresh.load_state_dict(folded.state_dict())
    assert [key for key in folded.state_dict() if "encoders.image" in key] == ["network.encoders.image.constant_0"]


def test_gradients_reach_what_is_there() -> None:
    folded = make(Additive()).fold("text", EXAMPLE)
    given = inputs()
    given["text"].requires_grad_()
    given["image"].requires_grad_()
    folded(given).sum().backward()
    assert given["text"].grad.abs().sum() > 0
    assert given["image"].grad is None or not given["image"].grad.any()


def test_the_network_may_change_constants_in_place() -> None:
    names = Modalities(["a", "b"])
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.randn(5, 4, generator=generator) for name in names}
    adapted = adapt(InPlace(), names, SSF(), example=((given,), {}), targets=["encoders.*", "head"])
    randomise(adapted)
    for combination in names.combinations():
        folded = adapted.fold(combination, ((given,), {}))
        for batch in (5, 1, 1, 5):
            part = {name: value[:batch] for name, value in given.items()}
            with torch.no_grad():
                expected = adapted(part, available=names.mask(combination).expand(batch, -1))
                torch.testing.assert_close(folded(part), expected)


def test_other_shapes_and_examples_that_do_not_run_are_refused() -> None:
    adapted = make(Additive())
    folded = adapted.fold("text", EXAMPLE)
    with pytest.raises(LightningMMError, match=r"is a constant for inputs of shapes .*10, 7.*got .*12, 7"):
        folded({**inputs(), "image": torch.randn(8, 1, 12, 7)})
    with pytest.raises(LightningMMError, match=r"folded for 'text' does not run on `example` \(.*"):
        adapted.fold("text", (({**inputs(2), "text": torch.randn(2, 9)},), {}))
    lacking = inputs(2)
    del lacking["image"], lacking["motion"], lacking["text"]
    with pytest.raises(LightningMMError, match="does not run on `example`"):
        adapted.fold("text", ((lacking,), {}))


class ReadsWeights(nn.Module):
    """Uses an encoder's weights beside calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for name in "ab"})
        self.head = nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        decay = sum(self.encoders[name][0].bias.sum() for name in "ab")
        return self.head(self.encoders["a"](a) + self.encoders["b"](b)) + decay


def reads_weights() -> tuple[Adapted, tuple[Any, dict[str, Any]]]:
    torch.manual_seed(0)
    call = ((torch.randn(4, 4), torch.randn(4, 4)), {})
    adapted = adapt(ReadsWeights(), ["a", "b"], SSF(), example=call, targets=["head"])
    randomise(adapted)
    return adapted, call


def test_weights_that_the_network_reads_itself_are_kept() -> None:
    adapted, call = reads_weights()
    with pytest.raises(
        LightningMMError, match=r"encoders of b cannot be constants: the network reads their attributes"
    ):
        adapted.fold("a", call)
    assert torch.isfinite(adapted.fold("a")(*call[0])).all()


@pytest.mark.slow
@pytest.mark.compiled
def test_programs_of_one_combination_lack_the_encoders_of_others(tmp_path: Path) -> None:
    adapted = make(Additive())
    export_adapted(adapted, EXAMPLE, tmp_path / "fixed", combinations=["text"], formats=["torch"], mixed=False)
    dynamic = {"motion.values": {1: "time"}}
    export_adapted(
        adapted, EXAMPLE, tmp_path / "dynamic", combinations=["text"], formats=["torch"], mixed=False, dynamic=dynamic
    )
    for folder, kept in (("fixed", ["text"]), ("dynamic", ["motion", "text"])):
        program = torch.export.load(tmp_path / folder / "text.pt2")
        weights = {key for key in program.state_dict if "encoders" in key and "constant" not in key}
        assert {key.split("encoders.")[1].split(".")[0] for key in weights} == set(kept)
        with torch.no_grad():
            expected = adapted(inputs(), available=NAMES.mask("text").expand(8, -1))
        found = Runtime(tmp_path / folder)({"text": inputs()["text"]})
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    whole, call = reads_weights()
    export_adapted(whole, call, tmp_path / "whole", combinations=["a"], formats=["torch"], mixed=False)
    program = torch.export.load(tmp_path / "whole" / "a.pt2")
    assert any("encoders.b" in key for key in program.state_dict)
    folded = make(Additive()).fold("text", EXAMPLE)
    with torch.no_grad():
        compiled = torch.compile(folded, fullgraph=True)
        torch.testing.assert_close(compiled(inputs()), folded(inputs()), rtol=1e-5, atol=1e-5)
