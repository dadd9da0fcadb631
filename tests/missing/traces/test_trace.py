"""AvailabilityTrace: durations of the Markov chain, files, mistakes."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing import AvailabilityTrace

NAMES = ["rgb", "depth", "audio"]


def durations(column: list[bool], state: bool) -> list[int]:
    """Lengths of the runs of a state, without the last one, which the end cuts off."""
    runs = [(value, len(list(group))) for value, group in groupby(column)][:-1]
    return [length for value, length in runs if value is state]


def test_mean_durations_are_those_of_the_chain() -> None:
    on, off = {"rgb": 20.0, "depth": 8.0, "audio": 2.0}, {"rgb": 5.0, "depth": 8.0, "audio": 10.0}
    trace = AvailabilityTrace.markov(NAMES, 60_000, on, off, seed=1, min_present=0)
    for column, name in zip(trace.available.T.tolist(), NAMES):
        for state, mean in ((True, on[name]), (False, off[name])):
            found = durations(column, state)
            error = (mean * (mean - 1) / len(found)) ** 0.5  # of a geometric distribution
            assert abs(np.mean(found) - mean) < 4.5 * error, (name, state)
            assert min(found) == 1
    together = trace.available.float().T
    assert torch.corrcoef(together).fill_diagonal_(0).abs().max() < 0.05, "modalities fail by themselves"


def test_a_draw_repeats_and_a_longer_one_begins_the_same() -> None:
    first = AvailabilityTrace.markov(NAMES, 200, 10, 10, seed=2).available
    assert torch.equal(first, AvailabilityTrace.markov(NAMES, 500, 10, 10, seed=2).available[:200])
    assert not torch.equal(first, AvailabilityTrace.markov(NAMES, 200, 10, 10, seed=3).available)


@pytest.mark.parametrize("least", [1, 2, 3])
def test_enough_modalities_are_left(least: int) -> None:
    counts = AvailabilityTrace.markov(NAMES, 2000, 3, 30, min_present=least).available.sum(1)
    assert counts.min() == least
    assert AvailabilityTrace.markov(NAMES, 2000, 3, 30, min_present=0).available.sum(1).min() == 0


@pytest.mark.parametrize("name", ["trace.csv", "trace.npz"])
def test_files_hold_the_trace(name: str, tmp_path: Path) -> None:
    trace = AvailabilityTrace.markov(NAMES, 50, 4, 4, min_present=0)
    again = AvailabilityTrace.read(trace.save(tmp_path / name))
    assert torch.equal(again.available, trace.available)
    assert list(again.modalities) == NAMES
    assert again.combinations() == trace.combinations()
    some = AvailabilityTrace.read(tmp_path / name, ["audio", "rgb"])
    assert torch.equal(some.available, trace.available[:, [2, 0]])
    assert len(some) == 50
    assert repr(some) == "AvailabilityTrace(50 frames of ['audio', 'rgb'])"


def test_a_table_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("rgb, depth\nTrue,0\nfalse, 1\n\n0,0\n")
    assert AvailabilityTrace.read(tmp_path / "trace.csv").combinations() == ["rgb", "depth", ""]


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_mistakes_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    wrong: list[tuple[str, str]] = [
        ("rgb,depth\n", r"got 0 lines below \['rgb', 'depth'\]"),
        ("frame\n0\n", "expected a line with the names of the modalities"),
        ("rgb,depth\n1,yes\n", r"line 2: expected true or false for each of \['rgb', 'depth'\], got"),
        ("rgb,depth\n1\n", "line 2: expected true or false"),
    ]
    for text, message in wrong:
        path.write_text(text)
        with pytest.raises(LightningMMError, match=message):
            AvailabilityTrace.read(path)
    path.write_text("rgb\n1\n")
    with pytest.raises(LightningMMError, match=r"no column for the modality 'depth', only for \['rgb'\]"):
        AvailabilityTrace.read(path, ["depth"])
    with pytest.raises(DataNotFoundError, match="no availability trace at"):
        AvailabilityTrace.read(tmp_path / "other.csv")
    with pytest.raises(LightningMMError, match=r"is no availability trace .*expected the arrays available"):
        AvailabilityTrace.read(npz(tmp_path / "a.npz", rows=[1]))
    with pytest.raises(LightningMMError, match=r"expected available \[T, 1\] of booleans.* got int64 \(1, 1\)"):
        AvailabilityTrace.read(npz(tmp_path / "b.npz", available=[[2]], modalities=["rgb"]))
    for change, message in (
        ({"mean_on": 0.5}, "mean_on: expected a finite number of frames, 1 or more, got 0.5"),
        ({"mean_off": {"rgb": 2.0}}, "mean_off: expected a number for each of"),
        ({"min_present": 4}, "min_present is 4, but there are only"),
        ({"frames": 0}, "frames must be a whole number of at least 1"),
    ):
        settings: dict[str, Any] = {"frames": 10, "mean_on": 5, "mean_off": 5, **change}
        with pytest.raises(LightningMMError, match=message):
            AvailabilityTrace.markov(NAMES, **settings)
    with pytest.raises(LightningMMError, match="expected one or more frames, got none"):
        AvailabilityTrace(torch.ones(0, 3, dtype=torch.bool), NAMES)
