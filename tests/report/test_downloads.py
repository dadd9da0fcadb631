"""The files of a table: the same figures as CSV, LaTeX and xlsx."""

from __future__ import annotations

import csv
import io
import sys
from typing import Any

import pytest

from lightning_mm.report.downloads import files
from lightning_mm.report.tables import Cell, Table, combination_table, figures_table
from lightning_mm.report.workbook import MOST_ROWS, xlsx
from lightning_mm.results.files import csv_bytes
from tests.support.sweep_results import small_sweep
from tests.support.workbook import read_workbook


def rows_of(content: bytes, sheet: str) -> list[list[Any]]:
    """Rows as lists; empty text for cells that are not there."""
    rows = read_workbook(content)[sheet]
    letters = list(rows[0])
    return [[row.get(letter, "") for letter in letters] for row in rows]


def test_the_workbook_has_the_numbers_of_the_csv() -> None:
    result = small_sweep()
    for table in (combination_table(result, "accuracy"), figures_table(result, csv_bytes(result), 5)):
        found = files(table)
        assert list(found) == (["csv", "tex", "xlsx"] if table.exact is None else ["csv", "xlsx"])
        lines = list(csv.reader(io.StringIO(found["csv"].decode())))
        rows = rows_of(found["xlsx"], table.name)
        assert len(rows) == len(lines) > 3
        for row, line in zip(rows, lines):
            for cell, text in zip(row, line, strict=True):
                assert cell == (text if isinstance(cell, str) else pytest.approx(float(text)))
        assert any(isinstance(cell, float) for cell in rows[1])
        assert files(table)["xlsx"] == found["xlsx"], "equal tables make equal bytes"
    notes = read_workbook(files(combination_table(result, "accuracy"))["xlsx"])["notes"]
    assert notes[0]["A"] == "● available, ○ absent: rgb, depth"


def test_columns_of_others_stay_texts() -> None:
    result = small_sweep()
    lines = csv_bytes(result).decode().splitlines()
    content = "\n".join([f"{lines[0]},remark", *(f"{line},7 of them" for line in lines[1:])]) + "\n"
    table = figures_table(result, content.encode(), 5)
    assert {line[-1] for line in table.lines()[1:]} == {"7 of them"}
    assert all(isinstance(line[4], float) for line in table.lines()[1:])


def test_texts_stay_texts() -> None:
    names = ["=1+1", "http://example.org", "3", "+5", "<b>"]
    records = [{"method": name, "value": 0.5, "unknown": float("nan"), "more": float("inf")} for name in names]
    table = Table("one", "One", ["method"], [[Cell(name)] for name in names], records)
    rows = read_workbook(files(table)["xlsx"])["one"]
    assert [row["A"] for row in rows[1:]] == names
    assert [row["B"] for row in rows[1:]] == [0.5] * 5
    assert {row.get("C") for row in rows[1:]} == {None}
    assert {row["D"] for row in rows[1:]} == {"inf"}, "a workbook has no infinity"


def test_no_workbook_without_rows_or_of_too_many_or_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("one", "One", ["a"], [], [])
    assert xlsx(table) is None
    assert files(table).keys() == {"csv"}
    assert xlsx(Table("one", "One", ["a"], [], [{"a": 1}] * (MOST_ROWS + 1))) is None
    small = Table("one", "One", ["a"], [[Cell("1")]], [{"a": 1}])
    assert "xlsx" in files(small)
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    monkeypatch.setattr("lightning_mm.report.workbook.find_spec", lambda name: None)
    assert list(files(small)) == ["csv", "tex"]
