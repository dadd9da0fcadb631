"""Several seeds in one result: spread, samples, costs, and the tables that show them."""

from __future__ import annotations

import json
import math
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.results import (
    SweepResult,
    SweepRow,
    constant_rows,
    markdown,
    merge,
    print_table,
    read,
    renamed,
    save,
    summary_markdown,
    write_json,
)  # fmt: skip
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.files import write_samples
from lightning_mm.results.tables import sheet
from lightning_mm.results.texts import duration
from tests.support.repository import REPOSITORY

NAMES = ["rgb", "depth"]
ZERO, OWN, DEDICATED = (0.2, 0.3, 0.9), (0.5, 0.5, 0.9), (0.6, 0.7)


def part(
    method: str,
    values: tuple[float, ...],
    seed: int = 0,
    combinations: tuple[str, ...] = ("rgb", "depth", "rgb+depth"),
    trained: int = 100,
    seconds: float = 10.0,
) -> SweepResult:
    """One method and seed; its statistics are the seed, so that mixed seeds are seen."""
    rows = [
        SweepRow(method, name, name.count("+") + 1, "accuracy", value, 20, seed, value - 0.1, value + 0.1)
        for name, value in zip(combinations, values)
    ]
    samples = {"index": np.arange(20), "observed": np.ones((20, 2), dtype=bool)}
    samples |= {f"{method}/{row.combination}/hit": np.full(20, seed) for row in rows}
    noise = np.random.default_rng(seed).normal(0, 0.02, (50,))
    replicates = Bootstrap("same", {(row.method, row.combination, row.metric): row.value + noise for row in rows})
    costs = {method: {"trained": trained, "base": 100}}
    return SweepResult(rows, NAMES, "accuracy", {}, costs, {}, samples, replicates, {method: seconds})


def several() -> list[SweepResult]:
    """Three methods, three seeds that lie 0.1 apart; the gap closes by half more in the last."""
    parts = []
    for seed, shift in enumerate((0.0, 0.1, 0.2)):
        parts += [
            part("zero_fill", tuple(v - shift / 2 for v in ZERO), seed, seconds=0.0),
            part("adapted", tuple(v + shift / 2 for v in OWN), seed, trained=3, seconds=50 + 10 * seed),
            part("dedicated", (DEDICATED[0],), seed, ("rgb",), seconds=100),
            part("dedicated", (DEDICATED[1],), seed, ("depth",), seconds=20 + seed),
        ]
    return parts


def test_names_are_text_in_markdown() -> None:
    rows = [SweepRow("[a](b)|c", name, 1, "accuracy", 0.5, 9, 0) for name in ("_x_", "y")]
    text = markdown(SweepResult(rows, ["_x_", "y"], "accuracy"))
    assert r"[a\](b)\|c" in text
    assert r"| \_x\_ | y |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, "all rows have as many cells"


def test_figures_of_every_seed_by_hand() -> None:
    result = merge(several())
    assert result.several_seeds
    assert result.seeds("adapted") == [0, 1, 2]
    assert result.figures("adapted").mean_per_seed() == pytest.approx({0: 0.5, 1: 0.55, 2: 0.6})
    assert result.figures("adapted", "accuracy").mean_per_seed(["rgb+depth"]) == pytest.approx(
        {0: 0.9, 1: 0.95, 2: 1.0}
    )
    assert result.figures("adapted").mean().std == pytest.approx(0.05)
    assert result.figures("adapted").full().std == pytest.approx(0.05)
    assert result.figures("zero_fill").worst().std == pytest.approx(0.05)
    # Full and mean move together.
    assert result.figures("adapted").drop().std == pytest.approx(0, abs=1e-9)
    gaps = {0: 0.25 / 0.4, 1: 0.35 / 0.45, 2: 0.45 / 0.5}
    assert result.figures("adapted").recovered_gap_per_seed() == pytest.approx(gaps)
    assert result.recovered_gap("adapted") == pytest.approx(0.35 / 0.45)
    assert result.figures("adapted").recovered_gap().std == pytest.approx(np.std(list(gaps.values()), ddof=1))


def test_the_gap_is_that_of_the_means_and_a_seed_without_a_gap_has_none() -> None:
    parts = []
    for seed, top in enumerate((0.6, 0.2)):
        parts += [part("zero_fill", (0.2, 0.2, 0.9), seed), part("adapted", (0.3, 0.3, 0.9), seed)]
        parts += [part("dedicated", (top, top), seed)]
    result = merge(parts)
    assert result.recovered_gap("adapted") == pytest.approx(0.1 / 0.2)
    assert result.figures("adapted").recovered_gap_per_seed() == pytest.approx({0: 0.25})
    assert math.isnan(result.figures("adapted").recovered_gap().std)


def test_a_seed_that_lacks_a_combination_is_left_out() -> None:
    result = merge([part("adapted", OWN, 0), part("adapted", (0.7, 0.7, 0.9), 1), part("adapted", (0.1,), 2)])
    assert result.figures("adapted").mean_per_seed() == pytest.approx({0: 0.5, 1: 0.7})
    assert result.figures("adapted").mean_per_seed(["rgb"]) == pytest.approx({0: 0.5, 1: 0.7, 2: 0.1})
    assert result.figures("adapted").mean().std == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert result.figures("nobody").mean_per_seed() == {}


def test_a_single_seed_has_no_spread() -> None:
    result = part("adapted", OWN)
    assert not result.several_seeds
    assert math.isnan(result.figures("adapted").mean().std)
    assert "±" not in markdown(result)
    assert "[" in markdown(result)
    assert result.summary("adapted")["seeds"] == [0]
    assert math.isnan(result.summary("adapted")["mean_std"])


def test_summary_compares_seed_by_seed() -> None:
    result = merge(several())
    summary = result.summary("adapted")
    assert summary["seeds"] == [0, 1, 2]
    for name in ("mean", "full", "worst"):
        assert summary[f"{name}_std"] == pytest.approx(0.05), name
    assert summary["gain_over_zero_fill"] == pytest.approx(0.35)
    # zero_fill falls where adapted rises.
    assert summary["gain_over_zero_fill_std"] == pytest.approx(0.1)
    assert summary["recovered_gap_std"] == result.figures("adapted").recovered_gap().std
    assert summary["mean_interval"] is None


def test_samples_of_seeds_are_not_mixed(tmp_path: Path) -> None:
    result = merge(several())
    assert result.bootstrap is None
    assert {"index", "observed"} <= result.samples.keys()
    for seed in range(3):
        for key in ("zero_fill/rgb+depth/hit", "adapted/rgb/hit", "dedicated/depth/hit"):
            assert (result.samples[f"seed{seed}/{key}"] == seed).all()
    assert len(result.samples) == 2 + 3 * (3 + 3 + 2)
    again = read(save(result, tmp_path)["csv"])
    assert list(again.samples) == list(result.samples)
    assert "seed1/ssf/rgb/hit" in renamed(again, {"adapted": "ssf"}).samples
    # In steps, or all at once: the same.
    first, *others = several()
    for other in others:
        first = merge([first, other])
    assert first.samples.keys() == result.samples.keys()
    for key, values in result.samples.items():
        np.testing.assert_array_equal(first.samples[key], values)


def test_methods_of_one_seed_each_keep_plain_keys_and_intervals() -> None:
    result = merge([part("zero_fill", ZERO, seed=0), part("adapted", OWN, seed=1)])
    assert "adapted/rgb/hit" in result.samples
    assert result.bootstrap is not None
    assert "±" not in markdown(result)


def test_statistics_of_unknown_seeds_are_left_out() -> None:
    old = merge([part("adapted", OWN, 0), part("adapted", OWN, 1)])
    old.samples = {"index": np.arange(20), "adapted/rgb/hit": np.zeros(20)}
    assert list(merge([old, part("adapted", OWN, 2)]).samples) == [
        "index", "seed2/adapted/rgb/hit", "seed2/adapted/depth/hit", "seed2/adapted/rgb+depth/hit",
    ]  # fmt: skip


def test_stored_studies_still_load() -> None:
    stored = set((REPOSITORY / "experiments" / "results").glob("*/sweep.csv"))
    assert stored, "experiments/results holds no sweep.csv: did the folder move?"
    for path in sorted(stored):
        result = read(path)
        assert result.samples, path
        assert result.samples.keys() == merge([result]).samples.keys(), path


def test_costs_add_up_over_networks_and_not_over_seeds() -> None:
    result = merge(several())
    assert result.parameters == {
        "zero_fill": {"trained": 100, "base": 100},
        "adapted": {"trained": 3, "base": 100},
        "dedicated": {"trained": 200, "base": 200},
    }
    assert result.seconds == pytest.approx({"zero_fill": 0, "adapted": 60, "dedicated": 121})


def test_networks_of_any_method_add_up_and_a_shared_base_is_one() -> None:
    names = ("rgb", "depth")
    parts = [part("bn_refit", (0.5,), 0, (name,), trained=3, seconds=2) for name in names]
    parts += [part("full_finetune", (0.5,), seed, (name,), seconds=7) for seed in (0, 1) for name in names]
    # This seed was killed before its second network: it says nothing of what all of them cost.
    parts += [part("full_finetune", (0.5,), 2, ("rgb",), seconds=900)]
    result = merge([*parts, parts[0]])
    assert result.parameters["bn_refit"] == {"trained": 6, "base": 100}
    assert result.parameters["full_finetune"] == {"trained": 200, "base": 200}
    assert result.seconds == {"bn_refit": 4, "full_finetune": 14}


def test_costs_and_notes_survive_the_disk(tmp_path: Path) -> None:
    result = merge([replace(one, notes=["bn_refit: the network has no BatchNorm"]) for one in several()])
    assert result.notes == ["bn_refit: the network has no BatchNorm"]
    written = save(result, tmp_path)
    again = read(written["csv"])
    assert (again.seconds, again.notes, again.parameters) == (result.seconds, result.notes, result.parameters)
    content = json.loads(written["json"].read_text())
    assert content["seconds"]["adapted"] == 60
    assert "- bn_refit: the network has no BatchNorm" in written["markdown"].read_text().splitlines()
    assert renamed(again, {"adapted": "ssf"}).seconds["ssf"] == 60


def test_the_foot_shows_spread_and_costs() -> None:
    content = sheet(merge(several()))
    foot = {one.label: one.cells for one in content.foot}
    assert foot["mean"] == ["20.0 ± 5.0", "55.0 ± 5.0", "65.0 ± 0.0"]
    assert foot["worst"] == ["15.0 ± 5.0", "55.0 ± 5.0", "60.0 ± 0.0"]
    assert foot["full"] == ["85.0 ± 5.0", "95.0 ± 5.0", "–"]
    assert foot["recovered gap"] == ["–", "77.8% ± 13.8%", "–"]
    assert foot["training"] == ["0 s", "1.0 min", "2.0 min"]
    assert "±: standard deviation over 3 seeds" in content.notes
    assert "training: CPU time of training all networks of a method, mean over seeds" in content.notes
    assert not [note for note in content.notes if "left out" in note or "alone" in note]
    fewer = sheet(merge(several()[:-2]))
    assert "±: standard deviation over 3 seeds; fewer for dedicated (2)" in fewer.notes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (4.25, "4.2 s"), (52.3, "52 s"), (59.6, "1.0 min"), (204, "3.4 min"), (3599, "1.0 h"), (9000, "2.5 h"),
     (math.nan, "–")],
)  # fmt: skip
def test_durations_have_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_constant_stands_beside_the_methods() -> None:
    result = merge(several())
    rows = constant_rows("majority", 0.4, "accuracy", like=result)
    assert [(row.combination, row.n, row.low) for row in rows] == [(name, 20, None) for name in result.combinations]
    result.rows += rows
    assert result.mean("majority") == pytest.approx(0.4)
    assert math.isnan(result.figures("majority").mean().std)
    assert "| 40.0 | 20 |" in markdown(result)
    assert merge([result]).rows == result.rows
    with pytest.raises(LightningMMError, match="no figures of metric 'miou'"):
        constant_rows("majority", 0.4, "miou", like=result)


def many(methods: int, names: list[str], seeds: int = 2) -> SweepResult:
    parts = [
        SweepResult(
            [
                SweepRow(f"some_long_method_{m}", c, c.count("+") + 1, "accuracy", (i + m) / 40 + seed / 100, 7, seed)
                for i, c in enumerate(Modalities(names).combinations())
            ],
            names, "accuracy", {}, {f"some_long_method_{m}": {"trained": 40, "per_combination": 4, "base": 1000}},
            seconds={f"some_long_method_{m}": 30.0},
        )
        for m in range(methods)
        for seed in range(seeds)
    ]  # fmt: skip
    return merge(parts)


def test_many_methods_have_a_summary_with_one_row_each() -> None:
    result = merge(several())
    result.rows += constant_rows("majority", 0.9, "accuracy", like=result)
    lines = summary_markdown(result).splitlines()
    assert lines[2] == "| method | mean | worst | full | drop | recovered gap | trained | training |"
    assert lines[5] == (
        "| adapted | 55.0 ± 5.0 | 55.0 ± 5.0 | **95.0 ± 5.0** | 40.0 ± 0.0 | 77.8% ± 13.8% | 3 (3.00%) | 1.0 min |"
    )
    assert lines[7].startswith("| majority | **90.0** | **90.0** | 90.0 |")
    # Four methods have their foot; with a fifth the summary stands above.
    assert "| method |" not in markdown(result)
    result.rows += constant_rows("other", 0.9, "accuracy", like=result)
    text = markdown(result)
    assert text.index("| method |") < text.index("|  | zero_fill | adapted |")
    # Equal ones are best together.
    assert [line.split("|")[1].strip() for line in text.splitlines() if "**90.0** | **90.0**" in line][:2] == [
        "majority", "other",
    ]  # fmt: skip
    assert "| ● ○ | 15.0 ± 5.0 |" in text
    assert "● available, ○ absent: rgb, depth." in text


@pytest.mark.parametrize("width", [240, 120, 80])
def test_many_methods_fit_the_terminal(width: int) -> None:
    result = many(12, ["skeleton", "accelerometer", "gyroscope", "video"])
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        print_table(result, console=console)
    text = capture.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    # Every figure of every method and every row of dots, however the table was cut.
    for value in {100 * (i / 40 + 0.005) for i in range(15 + 11)}:
        assert f"{value:.1f} ± 0.7" in text
    assert text.count("●") % (4 * 8) == 0
    assert "recovered gap" not in text
    assert "training" in text


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("build", "pause"), [(lambda: merge(several()), 0), (lambda: part("adapted", OWN), 1.1)])
def test_equal_results_make_equal_bytes(build: Callable[[], SweepResult], pause: float, tmp_path: Path) -> None:
    save(build(), tmp_path / "first", timestamp=False)
    # The clock of a timestamp ticks in seconds.
    time.sleep(pause)
    save(build(), tmp_path / "second", timestamp=False)
    save(read(tmp_path / "first"), tmp_path / "read_back", timestamp=False)
    first = read_all(tmp_path / "first")
    assert {"sweep.csv", "sweep.json", "sweep.md", "sweep.png"} <= first.keys()
    for folder in ("second", "read_back"):
        again = read_all(tmp_path / folder)
        assert again.keys() == first.keys()
        assert [name for name in first if again[name] != first[name]] == []
    assert "created" not in json.loads(first["sweep.json"])
    assert "created" in json.loads(write_json(build(), tmp_path / "dated.json").read_text())


def test_archives_hold_no_date(tmp_path: Path) -> None:
    # Zip counts in steps of two seconds: a short pause would not show it.
    path = write_samples(part("adapted", OWN), tmp_path / "sweep_samples.npz")
    with zipfile.ZipFile(path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
