"""Methods of the previous release still work and say what to write now."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lightning_mm import results
from lightning_mm.results import SweepResult, SweepRow, merge
from lightning_mm.results.moved import FormerMethods, Moved

FORMER = {name: moved for name, moved in vars(FormerMethods).items() if isinstance(moved, Moved)}


def build(seed: int = 0) -> SweepResult:
    rows = [
        SweepRow(method, name, name.count("+") + 1, "miou", value + seed / 10, 9, seed)
        for method, shift in {"zero_fill": 0.0, "adapted": 0.1, "dedicated": 0.3}.items()
        for name, value in {"rgb": 0.2 + shift, "depth": 0.1 + shift, "rgb+depth": 0.6}.items()
    ]
    return SweepResult(rows, ["rgb", "depth"], "miou")


def called(name: str, *args: Any, on: object = None, **options: Any) -> Any:
    """Call a former method, which must name the new function in its warning."""
    place = build() if on is None else on
    text = f"SweepResult.{name} is now {FORMER[name].new}; the old name will be removed in the next release"
    with pytest.warns(DeprecationWarning, match=f"^{re.escape(text)}$"):
        return getattr(place, name)(*args, **options)


def test_reading_writing_and_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = called("save", tmp_path, timestamp=False)
    assert written.keys() == {"csv", "json", "markdown", "png"}
    for place in (SweepResult, build()):
        assert called("from_csv", written["csv"], on=place).rows == build().rows
    for name in ("to_csv", "to_json", "to_png"):
        assert called(name, tmp_path / "other").is_file()
    assert called("to_markdown", "miou") == called("to_markdown", build(), on=SweepResult) == results.markdown(build())
    assert called("table", compact=True).row_count == results.rich_table(build()).row_count
    called("print", "miou")
    assert "miou in %" in capsys.readouterr().out
    assert called("renamed", {"adapted": "ssf"}).methods == ["zero_fill", "ssf", "dedicated"]


def test_figures() -> None:
    result = merge([build(0), build(1)])
    figures = result.figures("adapted")
    for name, figure in {
        "mean_std": figures.mean().std,
        "mean_interval": None,
        "full_std": figures.full().std,
        "worst_std": figures.worst().std,
        "drop_std": figures.drop().std,
        "recovered_gap_std": figures.recovered_gap().std,
        "mean_per_seed": figures.mean_per_seed(),
        "recovered_gap_per_seed": figures.recovered_gap_per_seed(),
        "gap_means": figures.gap_means(),
        "complete_values": figures.complete_values(),
    }.items():
        assert called(name, "adapted", "miou", on=result) == figure, name
    assert called("mean_std", "adapted", combinations=["rgb"], on=result) == figures.mean(["rgb"]).std
    assert called("mean_per_seed", "adapted", "miou", ["rgb"], on=result) == figures.mean_per_seed(["rgb"])


def test_the_new_names_exist() -> None:
    for moved in FORMER.values():
        name = moved.new.removeprefix("lightning_mm.results.").removeprefix("result.figures(method, metric).")
        assert hasattr(results if "lightning_mm" in moved.new else results.Figures, name.partition("(")[0]), moved.new
