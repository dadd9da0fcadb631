"""A table in terminals that are not UTF-8: what can be printed is printed, in columns that stay straight."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lightning_mm.cli import main
from lightning_mm.results import SweepResult, SweepRow, write_csv
from lightning_mm.results.terminal import print_table


def result(name: str = "zero_fill") -> SweepResult:
    rows = [
        SweepRow(name, combination, combination.count("+") + 1, "accuracy", value + seed / 100, 9, seed)
        for combination, value in (("rgb", 0.5), ("depth", 0.25), ("rgb+depth", 0.75))
        for seed in (0, 1)
    ]
    return SweepResult(rows, ["rgb", "depth"], "accuracy")


def printed(encoding: str, name: str = "zero_fill") -> str:
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    print_table(result(name), console=Console(file=file, width=100, force_terminal=False))
    return buffer.getvalue().decode(encoding)


def test_every_encoding_shows_the_same_figures_in_the_same_places() -> None:
    expected = printed("utf-8")
    assert "\u25cf" in expected
    for encoding in ("ascii", "latin-1", "cp1252", "cp437"):
        shown = printed(encoding)
        rows = [line for line in shown.splitlines() if "~" in line or "\xb1" in line]
        whole = [line for line in expected.splitlines() if "\xb1" in line]
        assert len(rows) == len(whole)
        for row, line in zip(rows, whole):
            assert len(row) == len(line)
            assert "?" not in row
            assert [word for word in row.split() if "." in word] == [word for word in line.split() if "." in word]
        present = [line.split() for line in rows if "x" in line.split()]
        assert len(present) == 3, f"{encoding}: which modalities are there is still shown"
    assert "m?thode" in printed("ascii", "m\xe9thode"), "what an encoding lacks"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_command_prints_it(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(result("m\u03b5thod"), tmp_path / "sweep.csv")
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding=encoding))
    assert main(["table", str(tmp_path), "--out", str(tmp_path / "\u03b5")]) == 0
    shown = buffer.getvalue().decode(encoding)
    assert "m?thod" in shown
    assert "written: " in shown
    assert (tmp_path / "\u03b5" / "sweep.md").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(result(), tmp_path / "sweep.csv")
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["table", str(tmp_path)]) == 1
        monkeypatch.undo()
    assert "lightning-mm: error: No space left on device; make room" in capsys.readouterr().err
