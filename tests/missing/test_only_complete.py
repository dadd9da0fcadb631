"""The complete samples of a hard table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from lightning_mm import Modalities
from lightning_mm.data.hard_table import HardTable
from lightning_mm.missing import CsvTable, MissingRates, OnlyComplete

NAMES = Modalities(["a", "b"])


class Named(Dataset[dict[str, Any]]):
    """Samples that a table by names can look up."""

    ids = ("x", "y", "z")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": {name: torch.zeros(1) for name in NAMES}, "target": index}


def test_rows_are_those_of_the_table_that_are_complete() -> None:
    table = MissingRates(0.4)
    drawn, left = (one.draw(NAMES, range(50), epoch=0, seed=2) for one in (table, OnlyComplete(table)))
    assert torch.equal(left.any(1), drawn.all(1))
    assert torch.equal(left.all(1), drawn.all(1))
    assert left.any()


def test_a_table_by_names_is_looked_up(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("name,a,b\nx,true,true\ny,false,true\nz,true,true\n")
    table = CsvTable(str(tmp_path / "table.csv"))
    hidden = HardTable(Named(), NAMES, OnlyComplete(table), 0)
    assert hidden.rows == [0, 2]
    assert hidden.available.all()
    assert [hidden[place]["target"] for place in range(len(hidden))] == [0, 2]
