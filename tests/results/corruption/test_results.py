"""Rows on damaged inputs: figures over seeds, when leaving out pays, files, table and picture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.results.corruption import CorruptionResult, CorruptionRow, read_corruption, save_corruption
from lightning_mm.results.corruption.picture import draw_corruption
from lightning_mm.results.corruption.tables import markdown

VALUES = {
    ("", "clean", 0): (0.9, 0.9),
    ("image", "left_out", 0): (0.5, 0.8),
    ("image", "blur", 1): (0.88, 0.88),
    ("image", "blur", 3): (0.7, 0.7),
    ("image", "blur", 5): (0.4, 0.4),
    ("text", "left_out", 0): (0.3, 0.6),
    ("text", "dropped_frames", 1): (0.85, 0.59),
    ("text", "dropped_frames", 3): (0.8, 0.61),
    ("text", "dropped_frames", 5): (0.75, 0.5),
}
METHODS = ("zero_fill", "adapted")


def result(seeds: int = 2, sign: int = 1) -> CorruptionResult:
    rows = [
        CorruptionRow(method, *damage, "accuracy", sign * (values[place] + seed / 50), 100, seed)
        for place, method in enumerate(METHODS)
        for seed in range(seeds)
        for damage, values in VALUES.items()
    ]
    return CorruptionResult(rows, "accuracy", {"accuracy": "max" if sign > 0 else "min"})


@pytest.mark.parametrize("sign", [1, -1])
def test_when_it_pays_to_leave_a_modality_out(sign: int) -> None:
    found = result(sign=sign)
    assert found.methods == list(METHODS)
    assert found.damages == [("image", "blur"), ("text", "dropped_frames")]
    assert found.severities == [1, 3, 5]
    figure = found.figure("adapted", "image", "blur", 3)
    assert figure.value == pytest.approx(sign * 0.71)
    assert figure.std == pytest.approx(0.02 / math.sqrt(2))
    assert [found.pays("adapted", "image", "blur", severity) for severity in (1, 3, 5)] == [False, True, True]
    assert [found.pays_from(method, "image", "blur") for method in METHODS] == [5, 3]
    # not from 1 on, since it does not pay at 3
    assert [found.pays_from(method, "text", "dropped_frames") for method in METHODS] == [None, 5]
    assert not CorruptionResult(found.rows[1:], "accuracy").pays("zero_fill", "image", "noise", 1), "not tried"


def test_table() -> None:
    lines = markdown(result()).splitlines()
    assert "accuracy in % (higher is better), n = 100, mean ± standard deviation over 2 seeds." in lines[0]
    assert lines[2:7] == [
        "| damaged | severity | zero_fill | adapted |",
        "|---|---|---|---|",
        "| nothing |  | 91.0 ± 1.4 | 91.0 ± 1.4 |",
        "| image: left out |  | 51.0 ± 1.4 | 81.0 ± 1.4 |",
        "| image: blur | 1 | 89.0 ± 1.4 | 89.0 ± 1.4 |",
    ]
    assert lines[7] == "| image: blur | 3 | 71.0 ± 1.4 | **71.0 ± 1.4** |"
    assert lines[-2:] == ["| image: blur | 5 | 3 |", "| text: dropped frames | never | 5 |"]


def test_files(tmp_path: Path) -> None:
    rows = result(1).rows
    rows[0] = CorruptionRow("zero_fill", "", "clean", 0, "accuracy", 0.9, 100, 0, low=0.85, high=0.95)
    rows[1] = CorruptionRow("zero_fill", "image", "left_out", 0, "accuracy", math.nan, 0, 0)
    written = save_corruption(CorruptionResult(rows, "accuracy"), tmp_path / "new")
    assert {path.name for path in written.values()} == {"corruption.csv", "corruption.md", "corruption.png"}
    again = read_corruption(tmp_path / "new")
    assert repr(again) == repr(CorruptionResult(rows, "accuracy"))
    assert again.figure("zero_fill", "", "clean", 0).interval == (0.85, 0.95)
    assert "90.0 [85.0, 95.0]" in (tmp_path / "new" / "corruption.md").read_text()
    assert (tmp_path / "new" / "corruption.csv").read_text().splitlines()[:2] == [
        "method,modality,corruption,severity,metric,value,n,seed,low,high",
        "zero_fill,,clean,0,accuracy,0.9,100,0,0.85,0.95",
    ]


def test_picture_has_a_panel_for_each_damage_and_a_line_for_each_method() -> None:
    figure = draw_corruption(result())
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["image: blur", "text: dropped frames"]
    line = shown[0].lines[0]
    assert list(line.get_xdata()) == [0, 1, 3, 5]
    assert list(line.get_ydata()) == pytest.approx([91, 89, 71, 41])


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no table of corruptions at"):
        read_corruption(tmp_path)
    path = tmp_path / "corruption.csv"
    head = "method,modality,corruption,severity,metric,value,n,seed,low,high\n"
    for text, message in (
        ("a,b\n1,2\n", r"expected the columns \['method', .*got \['a', 'b'\]"),
        (head, "holds no figures"),
        (f"{head}m,,clean,x,accuracy,0.5,1,0,,\n", "line 2: expected numbers, got"),
        (f"{head}m,,clean\n", "line 2: expected numbers"),
    ):
        path.write_text(text)
        with pytest.raises(LightningMMError, match=message):
            read_corruption(path)
    with pytest.raises(LightningMMError, match=r"no figures of metric 'f1'; this table has \['accuracy'\]"):
        markdown(result(), "f1")
