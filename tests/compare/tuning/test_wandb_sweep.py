"""A search as a W&B sweep: its terms, and the command of its agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_mm.compare.tuning import Tune, wandb_sweep
from lightning_mm.errors import LightningMMError
from tests.support.tunes import LR, RANGES, WIDTH, read
from tests.support.wandb_sweeps import check, drawn

LOGGER = {"class_path": "lightning_mm.tracking.OfflineFirstWandbLogger", "init_args": {"project": "mine"}}


def written(tune: Tune, logger: Any = LOGGER) -> dict[str, Any]:
    def run(command: list[str]) -> dict[str, Any]:
        print(yaml.safe_dump({"seed_everything": 0, "trainer": {"logger": logger}, "model": {}, "data": {}}))
        return {}

    content: dict[str, Any] = yaml.safe_load(wandb_sweep(tune, run))
    check(content)
    return content


def test_a_grid_has_the_runs_of_our_trials_and_seeds(tmp_path: Path) -> None:
    tune = read(tmp_path)
    runs = list(drawn(written(tune)))
    ours = [{**trial.values, "seed_everything": seed} for trial in tune.trials() for seed in tune.seeds]
    assert sorted(map(repr, runs)) == sorted(map(repr, ours))


def test_a_random_search_keeps_its_distributions(tmp_path: Path) -> None:
    sweep = written(read(tmp_path, method="random", trials=7, parameters=RANGES, seeds=[3]))
    assert (sweep["method"], sweep["run_cap"], sweep["project"]) == ("random", 7, "mine")
    assert sweep["metric"] == {"name": "val/accuracy", "goal": "maximize"}
    assert sweep["parameters"] == {
        LR: RANGES[LR], WIDTH: {**RANGES[WIDTH], "distribution": "int_uniform"}, "seed_everything": {"value": 3}
    }  # fmt: skip


def test_agents_run_fit_in_a_folder_for_each_run(tmp_path: Path) -> None:
    command = written(read(tmp_path, settings={"trainer.max_epochs": 2}))["command"]
    assert command[:3] == ["${env}", "lightning-mm", "fit"]
    assert command[3:7] == ["-c", str(tmp_path / "base.yaml"), "-c", str(tmp_path / "ssf.yaml")]
    assert f"--trainer.default_root_dir={tmp_path}/out/wandb_sweep/${{oc.env:WANDB_RUN_ID}}" in command
    assert command[-2:] == ["--trainer.max_epochs=2", "${args}"]


def test_what_cannot_be_a_wandb_sweep(tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match=r"runs of a W&B sweep need a logger such as .* got False"):
        written(read(tmp_path), logger=False)
    assert "project" not in written(read(tmp_path), logger=[{"class_path": "x.WandbLogger"}])
    tune = read(tmp_path, parameters={"callbacks.Adapter.rank": {"values": [1]}})
    with pytest.raises(LightningMMError, match=r"callbacks.Adapter.rank: an agent of W&B passes parameters to"):
        written(tune)
    tune = read(tmp_path, parameters={LR: {"values": [None, 1]}})
    with pytest.raises(LightningMMError, match=r"model.lr: W&B passes null as the text None"):
        written(tune)
