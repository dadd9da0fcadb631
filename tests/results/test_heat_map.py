"""The heat map holds every figure and label, inside the picture."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.results.heat_map import heat_map, write_heat_map
from lightning_mm.results.large.groups import ENDS, groups
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import SweepRow
from lightning_mm.results.tables import markdown, summary_markdown
from lightning_mm.results.terminal import print_table, rich_table


def build(names: list[str], methods: int) -> SweepResult:
    rows = [
        SweepRow(f"some_long_method_{m}", combination, combination.count("+") + 1, "miou", (i + m) / 100, 7, 0)
        for m in range(methods)
        for i, combination in enumerate(Modalities(names).combinations())
        if not (m == 1 and i == 2)
    ]
    return SweepResult(rows, names, "miou")


@pytest.mark.parametrize(("count", "methods"), [(1, 1), (2, 2), (5, 3), (4, 12)])
def test_every_figure_and_label_is_drawn_inside_the_picture(count: int, methods: int) -> None:
    result = build([f"modality_{i}" for i in range(count)], methods)
    figure = heat_map(result)
    FigureCanvasAgg(figure).draw()
    texts = [text for axes in figure.axes for text in [*axes.texts, *axes.get_xticklabels()]] + list(figure.texts)
    words = [text.get_text() for text in texts]
    for row in result.rows:
        assert f"{100 * row.value:.1f}" in words
    for name in [*result.modalities, *result.methods, "miou in %", "n = 7", "mean"]:
        assert name in words
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text


def test_a_figure_that_is_not_there_is_a_dash_and_not_a_colour() -> None:
    figure = heat_map(build(["rgb", "depth"], 2))
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    # depth-and-rgb of the second method was not run; its mean over single modalities exists.
    assert words.count("–") == 1
    grid = figure.axes[1].images[0].get_array()
    assert math.isnan(np.ma.filled(grid, np.nan)[2, 1])


def test_a_metric_that_was_not_measured_is_an_error_that_names_those_that_were() -> None:
    result = build(["rgb", "depth"], 2)
    for draw in (heat_map, markdown, rich_table, print_table, summary_markdown):
        with pytest.raises(LightningMMError, match=r"no figures of metric 'nope'; this sweep has \['miou'\]"):
            draw(result, "nope")
    result.primary_metric = "loss"
    with pytest.raises(LightningMMError, match=r"no figures of metric 'loss'; this sweep has \['miou'\]"):
        markdown(result)


def test_a_correlation_is_no_share() -> None:
    result = build(["rgb", "depth"], 2)
    result.rows += [replace(row, metric="pearson", value=0.123) for row in result.rows]
    assert "### pearson\n" in markdown(result, "pearson")
    assert "| 0.123 |" in markdown(result, "pearson")
    texts = [text.get_text() for axes in heat_map(result, "pearson").axes for text in axes.texts]
    assert "0.123" in texts
    assert "### miou in %" in markdown(result)


def test_png_is_written_whole(tmp_path: Path) -> None:
    path = write_heat_map(build(["rgb", "depth"], 2), tmp_path / "deep" / "sweep.png")
    image = Image.open(io.BytesIO(path.read_bytes()))
    assert image.format == "PNG"
    pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert [file.name for file in path.parent.iterdir()] == ["sweep.png"]


def test_dollar_signs_are_no_formulas(tmp_path: Path) -> None:
    result = build(["$\\frac{$", "depth"], 1)
    result.rows = [replace(row, method="$\\sqrt{$", metric="$_$") for row in result.rows]
    write_heat_map(replace(result, primary_metric="$_$"), tmp_path / "sweep.png")


@pytest.mark.parametrize(("count", "methods"), [(6, 2), (6, 6), (8, 3)])
def test_a_large_sweep_is_shown_by_the_ends_of_its_groups(count: int, methods: int) -> None:
    names = [f"modality_{i}" for i in range(count)]
    rows = [row for row in build(names, methods).rows if row.method != "some_long_method_1"]
    result = SweepResult(rows, names, "miou")
    found = groups(result, "miou")
    assert sum(group.size for group in found) == 2**count - 1
    assert [group.missing for group in found] == [*range(count - 1, -1, -1)]
    figure = heat_map(result)
    FigureCanvasAgg(figure).draw()
    texts = [text for axes in figure.axes for text in [*axes.texts, *axes.get_xticklabels()]] + list(figure.texts)
    words = [text.get_text() for text in texts]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
    assert figure.get_figheight() < 28
    for width in (80, 120):
        console = Console(file=io.StringIO(), width=width)
        print_table(result, console=console)
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        for group in found:
            assert group.mean_title in words
            assert any(group.mean_title in line for line in lines)
            if group.rest:
                assert any(f"… {len(group.rest)} more" in line for line in lines)
    for group in found:
        values = [result.value("some_long_method_0", name) for name in group.best]
        assert values == sorted(values, reverse=True)
        ends = [result.value("some_long_method_0", name) for name in (*group.best, *group.worst)]
        every = sorted(
            values if not group.worst else [*ends, *(result.value("some_long_method_0", n) for n in group.rest)]
        )
        assert sorted(ends) == (every if not group.worst else [*every[:ENDS], *every[-ENDS:]])


def test_a_metric_of_which_less_is_better_has_the_smallest_first() -> None:
    result = build(list("abcdef"), 1)
    result.directions = {"miou": "min"}
    group = groups(result, "miou")[2]
    values = [result.value("some_long_method_0", name) for name in (*group.best, *reversed(group.worst))]
    assert values == sorted(values)
    small = groups(build(list("abc"), 1), "miou")
    assert [group.best for group in small] == [["a", "b", "c"], ["a+b", "a+c", "b+c"], ["a+b+c"]]
