"""Saved tables: round trip, a header that says everything, and damage that is noticed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing import IndependentMissing, SavedTable, save_table
from lightning_mm.modalities import Modalities

MODALITIES = Modalities(["a", "b", "c"])
POLICY = IndependentMissing(0.4)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.npz"
    header = save_table(path, POLICY, MODALITIES, size=50, seed=3, epoch=2)
    table = SavedTable(str(path))
    expected = POLICY.draw(MODALITIES, range(50), epoch=2, seed=3)
    index = torch.tensor([49, 0, 7])
    for epoch, seed in [(0, 0), (5, 9)]:  # the table stands, whatever the run's own epoch and seed
        assert torch.equal(table.draw(MODALITIES, index, epoch=epoch, seed=seed), expected[index])
    assert table.draw(MODALITIES, [], epoch=0, seed=0).shape == (0, 3)
    assert table.header == header
    assert {key: header[key] for key in ("policy", "modalities", "size", "seed", "epoch")} == {
        "policy": "IndependentMissing(p_missing=0.4, min_present=1)",
        "modalities": ["a", "b", "c"],
        "size": 50,
        "seed": 3,
        "epoch": 2,
    }
    assert repr(table) == f"SavedTable(path={str(path)!r})"
    assert [file.name for file in path.parent.iterdir()] == ["table.npz"]  # nothing left beside it


def test_nothing_is_written_when_the_draw_fails(tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match="never leaves"):
        save_table(tmp_path / "t.npz", IndependentMissing(1.0), MODALITIES, size=5)
    with pytest.raises(LightningMMError, match="size of a table must be a whole number of at least 1, got 0"):
        save_table(tmp_path / "t.npz", POLICY, MODALITIES, size=0)
    assert list(tmp_path.iterdir()) == []


def test_mismatch_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    save_table(path, POLICY, MODALITIES, size=5)
    table = SavedTable(str(path))
    with pytest.raises(LightningMMError, match=r"is for modalities \['a', 'b', 'c'\], got \['b', 'a', 'c'\]"):
        table.draw(Modalities(["b", "a", "c"]), [0], epoch=0, seed=0)
    for index in ([0, 5], [-1]):
        with pytest.raises(LightningMMError, match=f"holds 5 samples, got index {index[-1]}"):
            table.draw(MODALITIES, index, epoch=0, seed=0)


def test_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with pytest.raises(DataNotFoundError, match=r"no table of missing modalities at .*t\.npz; write one with"):
        SavedTable(str(path))
    save_table(path, POLICY, MODALITIES, size=500)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a table"):
        path.write_bytes(damaged)
        with pytest.raises(LightningMMError, match="is not a table written by"):
            SavedTable(str(path))
    path.write_bytes(whole)
    with np.load(path) as file:
        contents = {"available": 1 - file["available"], "header": file["header"]}
    np.savez(path, **contents)
    with pytest.raises(LightningMMError, match="damaged or of another version"):
        SavedTable(str(path))
