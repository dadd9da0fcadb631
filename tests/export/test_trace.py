"""A stream whose modalities come and go through `Runtime`: each frame is that of its fixed combination."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mm.export import Runtime, export_adapted
from lightning_mm.missing import AvailabilityTrace, replay
from tests.support.export_networks import PAIR, eager, pair, pair_call, pair_inputs
from tests.support.type_checker import unchecked

pytestmark = pytest.mark.slow


@pytest.mark.compiled
def test_each_frame_is_that_of_its_fixed_combination(tmp_path: Path) -> None:
    adapted = pair()
    with unchecked():
        export_adapted(adapted, pair_call(), tmp_path, formats=["torch"], dynamic={"steps.values": {1: "time"}})
    trace = AvailabilityTrace.markov(PAIR, 40, mean_on=4, mean_off=4, min_present=0)
    assert set(trace.combinations()) == {"", *PAIR.combinations()}
    whole = [pair_inputs(1, seed=number) for number in range(40)]
    frames: list[dict[str, Any]] = []
    for inputs, row in zip(whole, trace.available.tolist()):
        frames.append({name: value for there, (name, value) in zip(row, inputs.items()) if there})
    runtime = Runtime(tmp_path)
    first = list(replay(runtime, frames, trace))
    opened = dict(runtime._opened)
    assert set(opened) == set(PAIR.combinations()), "a program for each combination, none for mixed rows"
    second = list(replay(runtime, frames, trace))
    assert all(runtime._opened[name] is one for name, one in opened.items()), "a program was opened again"
    for number, combination in enumerate(trace.combinations()):
        if not combination:
            assert first[number] is None
            continue
        fixed = Runtime(tmp_path)(frames[number])["logits"]  # opened for this frame alone
        assert torch.equal(first[number]["logits"], fixed)
        assert torch.equal(second[number]["logits"], fixed)
        mask = PAIR.mask(combination)[None]
        expected = eager(adapted, whole[number], mask)["logits"]
        torch.testing.assert_close(fixed, expected, rtol=1e-5, atol=1e-5)  # the tolerance of an export is 1e-4
