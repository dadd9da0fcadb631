"""A search that is run: its table, the best settings, and what is not run again. Trainings only write files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_mm.compare import InProcess, run_study
from lightning_mm.compare.executor import Perform
from lightning_mm.compare.tuning import Outcome, Tune, outcomes, write_outcomes
from lightning_mm.compare.tuning.outcome import nested
from lightning_mm.errors import LightningMMError
from tests.support.tunes import COMMANDS, LR, RANGES, WIDTH, fake_trial, figure, read


def run(tune: Tune, perform: Perform = fake_trial, again: bool = False) -> list[Outcome]:
    facts, _ = run_study(tune.study(tune.trials()), InProcess(perform), lambda line: None, again)
    return outcomes(tune, facts)


def commands(tune: Tune) -> list[str]:
    return (tune.out / COMMANDS).read_text().splitlines()


def order(found: Sequence[Outcome]) -> list[int]:
    return [one.trial.number for one in found]


def test_trials_are_sorted_by_the_mean_over_seeds(tmp_path: Path) -> None:
    tune = read(tmp_path)
    found = run(tune)
    assert order(found) == [3, 2, 1, 0]
    best = found[0]
    assert best.figures == {seed: figure(best.trial.values, seed) for seed in (0, 1)}
    assert best.mean == pytest.approx(0.2 + 0.016 + 0.005)
    assert best.spread == pytest.approx(0.01 / 2**0.5)
    assert (best.seconds, best.parameters) == (4.0, 7)
    low = read(tmp_path, metric={"name": "val/loss", "goal": "minimize"})
    assert order(run(low)) == [3, 2, 1, 0]
    assert len(commands(tune)) == 4 * 2 * 2, "another metric is no reason to run anything"
    assert order(run(read(tmp_path, metric={"name": "val/loss", "goal": "maximize"}))) == [0, 1, 2, 3]


def test_the_files_of_a_finished_search(tmp_path: Path) -> None:
    tune = read(tmp_path, settings={"trainer.max_epochs": 2})
    found = run(tune)
    written = write_outcomes(tune, found, "lightning-mm tune -c tune.yaml")
    rows = list(csv.DictReader(written["table"].read_text().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert (rows[0]["trial"], rows[0][LR], rows[0][WIDTH], rows[0]["n_seeds"]) == ("3", "0.2", "16", "2")
    assert float(rows[0]["val/accuracy"]) == found[0].mean
    record = json.loads(written["record"].read_text())
    assert record["best"] == {LR: 0.2, WIDTH: 16}
    assert record["trials"][0]["by_seed"] == {"0": pytest.approx(0.216), "1": pytest.approx(0.226)}
    assert (tune.out / record["trials"][0]["folder"] / "seed1" / "best.ckpt").is_file()
    text = written["best"].read_text()
    assert yaml.safe_load(text) == {"trainer": {"max_epochs": 2}, "model": {"lr": 0.2, "width": 16}}
    assert text.startswith(f"# The best of 4 trials of {tune.name}: val/accuracy 0.221 +- 0.007071 (seeds 0, 1).")


@pytest.mark.parametrize("kill", range(0, 16, 3))
def test_a_stopped_search_goes_on_and_ends_with_the_same_table(tmp_path: Path, kill: int) -> None:
    steps = 0

    def stopped(step: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > kill:
            raise KeyboardInterrupt
        return fake_trial(step)

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, tune = read(tmp_path / "whole", name="one"), read(tmp_path / "killed", name="one")
    expected = write_outcomes(whole, run(whole))
    with pytest.raises(KeyboardInterrupt):
        run(tune, stopped)
    assert not (tune.out / "tune.csv").exists()
    written = write_outcomes(tune, run(tune))
    assert sorted(commands(tune)) == sorted(commands(whole)), "each step is run once"
    assert written["table"].read_bytes() == expected["table"].read_bytes()
    assert [line for line in written["best"].read_text().splitlines() if line[0] != "#"] == [
        line for line in expected["best"].read_text().splitlines() if line[0] != "#"
    ]


def test_more_trials_run_the_new_ones_alone(tmp_path: Path) -> None:
    random: dict[str, Any] = {"method": "random", "parameters": RANGES, "seeds": [0]}
    before = run(read(tmp_path, trials=3, **random))
    tune = read(tmp_path, trials=5, **random)
    after = run(tune)
    assert len(commands(tune)) == len(set(commands(tune))) == 5 * 2
    assert {one.trial.name for one in before} < {one.trial.name for one in after}


def test_a_seed_more_runs_that_seed_alone(tmp_path: Path) -> None:
    run(read(tmp_path, seeds=[0]))
    tune = read(tmp_path, seeds=[0, 1])
    run(tune)
    assert len(commands(tune)) == len(set(commands(tune))) == 4 * 2 * 2


def test_other_settings_are_refused_and_repeated_when_asked_for(tmp_path: Path) -> None:
    run(read(tmp_path))
    tune = read(tmp_path, settings={"trainer.max_epochs": 9})
    with pytest.raises(LightningMMError, match=r"8 finished trainings .* have other settings .* give --again"):
        run(tune)
    run(tune, again=True)
    assert len(commands(tune)) == 2 * 16


def test_a_diverged_trial_is_last_and_says_why(tmp_path: Path) -> None:
    tune = read(tmp_path, parameters={LR: {"values": [0.7, 0.2]}, WIDTH: {"values": [8]}})
    found = run(tune)
    assert order(found) == [1, 0]
    assert found[1].note == "seed 0: the training loss is nan"
    (_, row) = csv.DictReader(write_outcomes(tune, found)["table"].read_text().splitlines())
    assert (row["val/accuracy"], row["std"], row["note"]) == ("", "", "seed 0: the training loss is nan")
    assert json.loads((tune.out / "tune.json").read_text())["trials"][1]["mean"] is None
    none = read(tmp_path, parameters={LR: {"values": [0.7]}, WIDTH: {"values": [8]}})
    with pytest.raises(LightningMMError, match="no trial has a finite val/accuracy: seed 0: the training loss is nan"):
        write_outcomes(none, run(none))


def test_a_metric_that_validation_lacks(tmp_path: Path) -> None:
    tune = read(tmp_path, metric={"name": "val/miou", "goal": "maximize"})
    with pytest.raises(LightningMMError, match="has val/accuracy, val/loss; got 'val/miou'"):
        run(tune)


def test_arguments_of_a_callback(tmp_path: Path) -> None:
    rank = "callbacks.Adapter.kind.init_args.rank"
    tune = read(tmp_path, parameters={LR: {"values": [0.1]}, WIDTH: {"values": [8]}, rank: {"values": [1, 2]}})
    found = run(tune)
    changed = {"kind": {"class_path": "LoRA", "init_args": {"rank": found[0].trial.values[rank]}}}
    best = yaml.safe_load(write_outcomes(tune, found)["best"].read_text())
    assert best["trainer"]["callbacks"] == [{"class_path": "x.Adapter", "init_args": changed}]
    assert best["model"] == {"lr": 0.1, "width": 8}
    wrong = read(tmp_path, parameters={LR: {"values": [0.1]}, "callbacks.Adapter.basis.rank": {"values": [1]}})
    with pytest.raises(LightningMMError, match=r"callbacks: Adapter: basis.rank: the configs give it no basis to cha"):
        run(wrong)


def test_values_that_are_classes(tmp_path: Path) -> None:
    kinds: list[Any] = [{"class_path": "SSF"}, {"class_path": "LoRA", "init_args": {"rank": 2}}]
    tune = read(tmp_path, parameters={LR: {"values": [0.1]}, WIDTH: {"values": [1]}, "model.kind": {"values": kinds}})
    rows = list(csv.DictReader(write_outcomes(tune, run(tune))["table"].read_text().splitlines()))
    assert json.loads(rows[0]["model.kind"]) in kinds
    whole = {"a.b": kinds[1], "a.b.init_args.rank": 3}
    assert nested(whole) == {"a": {"b": {"class_path": "LoRA", "init_args": {"rank": 3}}}}
    assert kinds[1]["init_args"] == {"rank": 2}, "the setting itself stays"
    assert nested({"a.b": kinds[1], "a.c": None}) == {"a": {"b": kinds[1], "c": None}}
