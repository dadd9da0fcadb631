"""What is read off a result, and the result on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lightning_mm import Modalities
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.results import SweepResult, SweepRow, markdown, merge, print_table, read, renamed, save, write_csv
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.per_sample import cells_of
from lightning_mm.results.texts import trained
from tests.support.sweep_results import classified

NAMES = ["rgb", "depth", "thermal"]
FIGURES = {
    "zero_fill": {"rgb": 0.2, "depth": 0.3, "thermal": 0.1, "rgb+depth": 0.5, "rgb+thermal": 0.4, "depth+thermal": 0.6,
                  "rgb+depth+thermal": 0.9},
    "adapted": {"rgb": 0.4, "depth": 0.5, "thermal": 0.3, "rgb+depth": 0.7, "rgb+thermal": 0.6, "depth+thermal": 0.8,
                "rgb+depth+thermal": 0.9},
    "dedicated": {"rgb": 0.6, "depth": 0.5, "thermal": 0.4},
}  # fmt: skip


def build(figures: dict[str, dict[str, float]] = FIGURES, seed: int = 0, n: int = 20) -> SweepResult:
    rows = [
        SweepRow(method, combination, combination.count("+") + 1, "miou", value, n, seed, value - 0.05, value + 0.04)
        for method, values in figures.items()
        for combination, value in values.items()
    ]
    noise = np.random.default_rng(0).normal(0, 0.02, (50,))
    bootstrap = Bootstrap("same", {(row.method, row.combination, "miou"): row.value + noise for row in rows})
    samples = {"index": np.arange(n), **{f"{m}/rgb/hit": np.arange(n) % 300 for m in figures}}
    parameters = {"adapted": {"trained": 4000, "per_combination": 700, "base": 1_000_000}}
    return SweepResult(rows, NAMES, "miou", {"miou": "max"}, parameters, {"split": "test"}, samples, bootstrap)


def test_figures_of_the_foot_by_hand() -> None:
    result = build()
    assert result.value("zero_fill", "thermal+rgb") == 0.4
    assert result.full("adapted") == 0.9
    assert result.mean("zero_fill") == pytest.approx(2.1 / 6)
    assert result.worst("zero_fill") == ("thermal", 0.1)
    assert result.drop("zero_fill") == pytest.approx(0.9 - 2.1 / 6)
    # Over rgb, depth, thermal alone: (.4 - .2) / (.5 - .2).
    assert result.recovered_gap("adapted") == pytest.approx(2 / 3)
    assert result.recovered_gap("zero_fill") == 0
    assert result.recovered_gap("dedicated") == pytest.approx(1)
    assert result.curve("zero_fill").tolist() == pytest.approx([0.9, 0.5, 0.2])
    assert result.robustness("zero_fill") == pytest.approx((0.9 / 2 + 0.5 + 0.2 / 2) / 2)


def test_no_mean_hides_a_combination_that_was_not_run() -> None:
    result = build()
    assert math.isnan(result.mean("dedicated"))
    assert math.isnan(result.worst("dedicated")[1])
    assert math.isnan(result.full("dedicated"))
    assert result.mean("dedicated", combinations=["rgb", "depth"]) == pytest.approx(0.55)


def test_metrics_where_less_is_better() -> None:
    result = replace(build(), directions={"miou": "min"})
    assert result.worst("zero_fill") == ("rgb+depth+thermal", 0.9)
    assert result.drop("zero_fill") == pytest.approx(2.1 / 6 - 0.9)
    assert "0.400" in markdown(result)
    assert "drop: mean minus full" in markdown(result)
    assert "drop: full minus mean" in markdown(build())
    # adapted is 0.2 above zero_fill, and that is worse.
    summary = result.summary("adapted")
    assert summary["gain_over_zero_fill"] == pytest.approx(-0.2)
    assert summary["gain_over_zero_fill_interval"] == pytest.approx((-0.2, -0.2))
    assert build().summary("adapted")["gain_over_zero_fill"] == pytest.approx(0.2)


def test_an_interval_of_a_gain_has_its_low_end_first() -> None:
    result = replace(build(), directions={"miou": "min"})
    assert result.bootstrap is not None
    for combination in result.incomplete:
        result.bootstrap.replicates["adapted", combination, "miou"] += np.linspace(0, 0.1, 50)
    low, high = result.summary("adapted")["gain_over_zero_fill_interval"]
    assert low == pytest.approx(-0.2975)
    assert high == pytest.approx(-0.2025)


def test_no_gap_is_recovered_where_dedicated_networks_are_worse() -> None:
    note = "- no recovered gap: dedicated networks are not better than zero_fill"
    for result in (
        replace(build(), directions={"miou": "min"}),
        build({**FIGURES, "dedicated": {"rgb": 0.1, "depth": 0.1}}),
    ):
        assert math.isnan(result.recovered_gap("adapted"))
        assert result.figures("adapted").recovered_gap_per_seed() == {}
        assert result.summary("adapted")["recovered_gap_interval"] is None
        lines = markdown(result).splitlines()
        (row,) = (line for line in lines if "*recovered gap*" in line)
        assert row.count("–") == 3
        assert note in lines
    # Less is better, and dedicated networks have less.
    turned = build({name: {key: 1 - value for key, value in own.items()} for name, own in FIGURES.items()})
    turned.directions = {"miou": "min"}
    assert turned.recovered_gap("adapted") == pytest.approx(2 / 3)
    assert turned.summary("adapted")["recovered_gap_interval"] == pytest.approx((2 / 3, 2 / 3))
    assert note not in markdown(turned) + markdown(build())


def test_nothing_trained_is_a_plain_zero() -> None:
    assert trained({"trained": 0, "base": 1000}) == "0"
    assert trained({"trained": 4, "base": 1000}) == "4 (0.40%)"


def test_a_figure_that_does_not_exist_is_named() -> None:
    with pytest.raises(LightningMMError, match=r"no figure for method 'dedicated', combination 'rgb\+depth'"):
        build().value("dedicated", "rgb+depth")
    with pytest.raises(LightningMMError, match="unknown modality 'lidar'"):
        build().value("dedicated", "lidar")


def test_round_trip_over_the_disk(tmp_path: Path) -> None:
    result = build()
    result.rows.append(SweepRow("adapted", "rgb", 1, "iou_car", math.nan, 20, 0))
    written = save(result, tmp_path / "new" / "folder")
    assert sorted(path.name for path in written.values()) == [
        "sweep.csv", "sweep.json", "sweep.md", "sweep.png", "sweep_samples.npz",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        path.name for path in written.values()
    )
    again = read(written["csv"])
    assert again.rows[:-1] == result.rows[:-1]
    assert math.isnan(again.rows[-1].value)
    assert again.rows[-1].low is None
    for name in ("modalities", "primary_metric", "directions", "parameters", "config"):
        assert getattr(again, name) == getattr(result, name), name
    assert again.samples.keys() == result.samples.keys()
    for key, values in result.samples.items():
        np.testing.assert_array_equal(again.samples[key], values)
    assert again.figures("adapted").mean().interval == pytest.approx(
        result.figures("adapted").mean().interval, abs=1e-6
    )
    assert markdown(again) == markdown(result)
    assert read(tmp_path / "new" / "folder").rows[:-1] == result.rows[:-1]


def test_csv_and_json_hold_what_others_read(tmp_path: Path) -> None:
    written = save(build(), tmp_path)
    lines = written["csv"].read_text().splitlines()
    assert lines[0] == "method,combination,n_available,metric,value,n,seed,low,high"
    assert lines[1].startswith("zero_fill,rgb,1,miou,0.2,20,0,")
    content = json.loads(written["json"].read_text())
    assert content["versions"]["torch"]
    assert content["config"] == {"split": "test"}
    assert content["summary"]["adapted"]["miou"]["recovered_gap"] == pytest.approx(2 / 3)
    assert content["summary"]["dedicated"]["miou"]["mean"] is None
    gain = content["summary"]["adapted"]["miou"]["gain_over_zero_fill_interval"]
    assert gain == pytest.approx([0.2, 0.2])


def test_csv_alone_is_enough(tmp_path: Path) -> None:
    path = write_csv(build(), tmp_path / "sweep.csv")
    again = read(path)
    assert again.modalities == NAMES
    assert again.mean("adapted") == pytest.approx(build().mean("adapted"))


def test_files_beside_a_changed_csv_are_not_used(tmp_path: Path) -> None:
    written = save(build(), tmp_path)
    write_csv(build({"zero_fill": {"rgb": 0.1}}), written["csv"])
    with pytest.warns(UserWarning, match="was changed after the files next to it"):
        again = read(written["csv"])
    assert again.bootstrap is None
    assert again.samples == {}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    result = build()
    path = write_csv(result, tmp_path / "sweep.csv")
    before = path.read_bytes()

    class Broken(SweepResult):
        @property
        def methods(self) -> list[str]:
            raise RuntimeError("no plot today")

    broken = Broken(**{**vars(build({"zero_fill": {"rgb": 0.7}}))})
    with pytest.raises(RuntimeError, match="no plot today"):
        save(broken, tmp_path / "other")
    # The figures were on the disk first, and nothing half-written lies about.
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["sweep.csv"]
    assert path.read_bytes() == before


def test_unreadable_csv_has_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no sweep at .*nowhere\.csv"):
        read(tmp_path / "nowhere.csv")
    bad = tmp_path / "bad.csv"
    bad.write_text("method,value\nzero_fill,1\n")
    with pytest.raises(LightningMMError, match=r"columns \['combination', .* are missing"):
        read(bad)
    bad.write_text("method,combination,n_available,metric,value,n,seed\nzero_fill,rgb,1,miou,0.5,7\n")
    with pytest.raises(LightningMMError, match="line 2"):
        read(bad)
    bad.write_text("method,combination,n_available,metric,value,n,seed\n")
    with pytest.raises(LightningMMError, match="holds no figures"):
        read(bad)


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: old[:200],
        lambda old: b"",
        lambda old: b"\x93NUMPY\x01\x00x",
        lambda old: old[:60] + bytes(40) + old[100:],
    ],
    ids=["cut", "empty", "lone_array", "zeros"],
)
def test_damaged_samples_are_named_with_the_way_out(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = save(build(), tmp_path)["samples"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LightningMMError, match=r"sweep_samples\.npz cannot be read .* remove it to read the CSV alone"):
        read(tmp_path)
    path.unlink()
    assert read(tmp_path).rows == build().rows


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    written = save(build(), tmp_path)
    written["json"].write_bytes(b'{"notes": ["\xff"]}')
    with pytest.raises(LightningMMError, match=r"sweep\.json is not JSON \(.*remove it to read the CSV alone"):
        read(tmp_path)
    whole = written["csv"].read_bytes()
    for content in (whole.replace(b"zero", b"z\xe9ro"), whole + b'"' + b"x" * 200_000, whole.decode().encode("utf-16")):
        written["csv"].write_bytes(content)
        with pytest.raises(LightningMMError, match=r"sweep\.csv is not a table of a sweep \(.*expected UTF-8"):
            read(tmp_path)


def test_merge_puts_separate_sweeps_side_by_side() -> None:
    parts = [build({method: values}) for method, values in FIGURES.items()]
    dedicated = replace(parts[2], modalities=["thermal", "rgb", "depth"])
    merged = merge([dedicated, *parts[:2]])
    together = build()
    assert merged.modalities == ["thermal", "rgb", "depth"]
    assert merged.methods == ["dedicated", "zero_fill", "adapted"]
    assert merged.value("adapted", "rgb+thermal") == 0.6
    assert merged.recovered_gap("adapted") == pytest.approx(together.recovered_gap("adapted"))
    assert merged.bootstrap is not None
    covered = merged.dedicated_combinations()
    assert merged.bootstrap.recovered_gap_interval(
        "adapted", "miou", covered, "zero_fill", "dedicated"
    ) == pytest.approx((2 / 3, 2 / 3))
    assert merged.samples.keys() == together.samples.keys()


def test_merge_of_dedicated_networks_takes_the_order_of_the_largest() -> None:
    single = replace(build({"dedicated": {"thermal": 0.4}}), modalities=["thermal"])
    merged = merge([single, build({"zero_fill": FIGURES["zero_fill"]})])
    assert merged.modalities == NAMES
    assert merged.value("dedicated", "thermal") == 0.4


def test_merge_of_sweeps_with_modalities_in_another_order() -> None:
    """Statistics and replicates are found under the names of the merged table, and so are the samples that count."""
    first, second = classified(), classified(1, ("text", "rgb"))
    second = renamed(second, {"adapted": "other", "zero_fill": "plain"})
    first.samples["observed"][::3, 1] = False  # depth
    key = Bootstrap.key_of(first.samples["index"], 5, 0)
    second.bootstrap = Bootstrap(key, {("other", "text+rgb", "accuracy"): np.arange(5.0)})
    first.bootstrap = Bootstrap(key, {("adapted", "rgb+depth", "accuracy"): np.ones(5)})
    for name in [name for name in first.samples if name.split("/")[1:2] in (["depth"], ["rgb+depth"])]:
        first.samples[name] = first.samples[name][first.samples["observed"][:, 1]]
    for one in (first, second):
        one.rows[:] = [
            replace(row, n=len(one.samples[f"{row.method}/{row.combination}/target"]), value=0.5) for row in one.rows
        ]
    merged = merge([first, second])
    assert merged.modalities == ["rgb", "depth", "text"]
    assert merged.bootstrap is not None
    assert ("other", "rgb+text", "accuracy") in merged.bootstrap.replicates
    assert merged.figures("other").mean(["rgb+text"]).interval is not None
    cells = {cell.key[:2]: cell for cell in cells_of(merged)}
    assert len(cells["other", "rgb+text"].rows) == 30
    assert len(cells["adapted", "rgb+depth"].rows) == 20


def test_merge_adds_up_what_dedicated_networks_train() -> None:
    singles = [
        replace(build({"dedicated": {name: 0.4}}, seed=seed), parameters={"dedicated": {"trained": 10, "base": 10}})
        for name, seed in [("rgb", 0), ("rgb", 1), ("depth", 0), ("thermal", 0)]
    ]
    assert merge(singles).parameters == {"dedicated": {"trained": 30, "base": 30}}


def test_seeds_give_mean_and_standard_deviation() -> None:
    merged = merge([build({"zero_fill": {"rgb": value}}, seed=seed) for seed, value in enumerate([0.2, 0.4, 0.6])])
    assert merged.value("zero_fill", "rgb") == pytest.approx(0.4)
    assert merged.std("zero_fill", "rgb") == pytest.approx(0.2)
    assert merged.bootstrap is None
    assert "40.0 ± 20.0" in markdown(merged)


def test_merge_refuses_what_cannot_be_compared() -> None:
    one = build({"zero_fill": {"rgb": 0.2}})
    assert merge([one, one]).rows == one.rows
    with pytest.raises(LightningMMError, match="two values for method 'zero_fill', combination 'rgb'"):
        merge([one, build({"zero_fill": {"rgb": 0.3}})])
    with pytest.raises(LightningMMError, match=r"measured on 20 samples by 'zero_fill' and on 21 by 'adapted'"):
        merge([one, build({"adapted": {"rgb": 0.3}}, n=21)])
    with pytest.raises(LightningMMError, match="nothing to merge"):
        merge([])


def test_renamed_methods_keep_their_figures() -> None:
    found = renamed(build(), {"adapted": "adapted_on_dropout"})
    assert found.methods == ["zero_fill", "adapted_on_dropout", "dedicated"]
    assert found.values("adapted_on_dropout") == build().values("adapted")
    assert "adapted_on_dropout/rgb/hit" in found.samples
    assert found.figures("adapted_on_dropout").mean().interval == build().figures("adapted").mean().interval


@pytest.mark.parametrize(("width", "intervals"), [(300, True), (80, False), (62, False)])
def test_the_table_fits_the_terminal_and_says_what_matters(width: int, intervals: bool) -> None:
    console = Console(width=width, record=True, force_terminal=False, color_system=None)
    with console.capture() as capture:
        print_table(build(), console=console)
    text = capture.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("●") == 12
    assert text.count("○") == 9
    assert ("[35.0, 44.0]" in text) == intervals
    assert ("[low, high]" in text) == intervals
    for words in ("miou in %", "mean of 3", "recovered gap", "66.7%", "4k (0.40%)", "700 (0.07%)", "drop"):
        assert words in text, words


def test_markdown_marks_the_best_method() -> None:
    lines = markdown(build()).splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    assert lines[0] == "### miou in %"
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "**60.0 [55.0, 64.0]**" in lines[4]
    assert "| – |" in rows["full"]
    assert Modalities(NAMES).full == build().full_combination
