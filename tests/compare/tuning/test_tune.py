"""A search is read from a YAML file; its trials stay the same when it grows; mistakes are told by name."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare.plan import Plan
from lightning_mm.compare.tuning.look import neighbours
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.tunes import LR, RANGES, WIDTH, read


def values(trials: list[Any]) -> list[dict[str, Any]]:
    return [dict(trial.values) for trial in trials]


def test_a_grid_has_every_combination_once(tmp_path: Path) -> None:
    trials = read(tmp_path).trials()
    assert values(trials) == [{LR: lr, WIDTH: width} for lr, width in product([0.1, 0.2], [8, 16])]
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert len({trial.name for trial in trials}) == 4


def test_a_grown_grid_keeps_the_folders_of_its_trials(tmp_path: Path) -> None:
    before = {trial.name for trial in read(tmp_path).trials()}
    more = {WIDTH: {"values": [4, 8, 16]}, LR: {"values": [0.2, 0.1, 0.3]}}
    assert before < {trial.name for trial in read(tmp_path, parameters=more).trials()}


def test_more_random_trials_keep_the_earlier_ones(tmp_path: Path) -> None:
    few, many = (read(tmp_path, method="random", trials=n, parameters=RANGES).trials() for n in (5, 40))
    assert values(many[:5]) == values(few)
    assert len({trial.values[LR] for trial in many}) == 40
    assert all(1e-3 <= trial.values[LR] <= 0.5 and 4 <= trial.values[WIDTH] <= 64 for trial in many)
    twice = read(tmp_path, method="random", trials=5, parameters={LR: RANGES[LR], "b": RANGES[LR]}).trials()
    assert all(trial.values[LR] != trial.values["b"] for trial in twice), "parameters are drawn apart"
    other = read(tmp_path, method="random", trials=5, parameters=RANGES, seed=1).trials()
    assert not {trial.name for trial in other} & {trial.name for trial in many}


def test_a_parameter_more_leaves_the_draws_of_the_others(tmp_path: Path) -> None:
    one = read(tmp_path, method="random", trials=5, parameters={LR: RANGES[LR]}).trials()
    two = read(tmp_path, method="random", trials=5, parameters=RANGES).trials()
    assert [trial.values[LR] for trial in one] == [trial.values[LR] for trial in two]


def test_draws_are_the_same_on_every_machine(tmp_path: Path) -> None:
    trials = read(tmp_path, method="random", trials=2, parameters=RANGES).trials()
    assert values(trials) == [{LR: 0.00127225, WIDTH: 22}, {LR: 0.0275921, WIDTH: 29}]


def test_what_is_drawn_twice_is_one_trial(tmp_path: Path) -> None:
    trials = read(tmp_path, method="random", trials=50).trials()
    assert len(trials) == 4
    assert trials[0].number == 0


def test_extremes_hold_every_value_and_both_ends(tmp_path: Path) -> None:
    parameters = {LR: RANGES[LR], WIDTH: {"values": [1, 2, 3]}}
    found = values(read(tmp_path, method="random", trials=1, parameters=parameters).extremes())
    assert [one[WIDTH] for one in found] == [1, 2, 3]
    assert {one[LR] for one in found} == {1e-3, 0.5}


def test_a_trial_is_trained_and_validated_with_every_seed_and_never_tested(tmp_path: Path) -> None:
    tune = read(tmp_path, settings={"trainer.max_epochs": 2})
    first = tune.trials()[0]
    steps = Plan(tune.study(tune.trials())).steps({})
    assert len(steps) == 4 * 2 * 2
    assert [f"{step.folder.relative_to(tune.out)} {step.stage}" for step in steps[:4]] == [
        f"{first.name}/{part}" for part in ("seed0 fit", "seed0 val", "seed1 fit", "seed1 val")
    ]
    assert steps[0].stack == (tmp_path / "base.yaml", tmp_path / "ssf.yaml")
    assert {"trainer.max_epochs": 2, LR: 0.1, WIDTH: 8}.items() <= steps[0].overrides.items()
    folder = steps[1].folder
    assert steps[1].command == ("validate", "-c", f"{folder}/cell.yaml", "--ckpt_path", f"{folder}/best.ckpt")
    assert not [word for step in steps for word in step.command if word in ("test", "sweep")]


def test_defaults(tmp_path: Path) -> None:
    tune = read(tmp_path, out=None, seeds=None)
    assert (tune.name, tune.seeds, tune.seed) == (tmp_path.name, (0,), 0)
    assert tune.out == Path("outputs") / tmp_path.name / "tune"
    assert list(tune.modalities) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"parametres": {}}, "unknown key 'parametres'; did you mean 'parameters'"),
        ({"method": None}, "method: a search needs it, such as grid or random"),
        ({"config": []}, "config: a search needs it, such as [base.yaml, ssf.yaml]"),
        ({"metric": None}, "metric: a search needs it, such as {name: val/accuracy, goal: maximize}"),
        ({"parameters": {}}, "parameters: expected {model.init_args"),
        ({"method": "sobol"}, "method: expected grid or random, got 'sobol'"),
        ({"method": "bayes"}, "got 'bayes'; write a W&B sweep (--wandb_sweep) and change its method there"),
        ({"method": "random"}, "trials: a random search needs a number of 1 or more, got None"),
        ({"method": "random", "trials": 0}, "a random search needs a number of 1 or more, got 0"),
        ({"method": "random", "trials": "ten"}, "trials: expected a whole number"),
        ({"trials": 3}, "trials: this grid has 4, all of which are run; leave the key out"),
        ({"parameters": RANGES}, "model.lr: a grid needs values; list some, or search at random"),
        ({"metric": "val/accuracy"}, "metric: expected {name: val/accuracy, goal: maximize}, got 'val/accuracy'"),
        ({"metric": {"name": "val/accuracy", "goal": "max"}}, "goal: expected maximize or minimize, got 'max'"),
        (
            {"metric": {"name": "test/accuracy", "goal": "maximize"}},
            "test/accuracy is a figure of test data, which must",
        ),
        ({"metric": {"name": "sweep/mean/miou", "goal": "maximize"}}, "sweep/mean/miou is a figure of test data"),
        ({"metric": {"name": "train/loss", "goal": "minimize"}}, "expected one of the validation split"),
        ({"settings": {LR: 0.1}}, "settings: model.lr is among the parameters too"),
        ({"parameters": {"seed_everything": {"values": [0, 1]}}}, "seed_everything: the study sets it; write `seeds`"),
        ({"parameters": {"callbacks.Adapter": {"values": [1]}}}, "expected class and argument of a callback, such as"),
        ({"seeds": [0, 0]}, "seeds: expected a list of distinct whole numbers"),
        ({"name": "../x"}, "name: a name is made of letters"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=re.escape(message)):
        read(tmp_path, **content)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"config: no file at .*other\.yaml"):
        read(tmp_path, config=["other.yaml"])


def test_where_a_name_leaves_a_config() -> None:
    config = {"model": {"init_args": {"lr": 0.1, "loss": None}}, "trainer": {}}
    assert neighbours(config, "model.init_args.lr") is None
    assert neighbours(config, "model.init_args.loss.weight") is None, "a class that is not given yet"
    assert neighbours(config, "model.init_args.rate") == ("model.init_args", "rate", ["lr", "loss"])
    assert neighbours(config, "modle.lr") == ("", "modle", ["model", "trainer"])
