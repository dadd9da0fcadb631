"""The W&B sweep of a search: the real client creates it, and its agent runs our trainings, on a server on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_mm.cli import main
from tests.support.repository import REPOSITORY
from tests.support.tiny_run import BASE
from tests.support.wandb_server import environment, running_server
from tests.support.wandb_sweeps import SweepServer

RATE, POLICY = "model.init_args.optimizer.init_args.lr", "data.train_policy"
TUNE = f"""
config: [base.yaml, logged.yaml]
method: grid
metric: {{name: val/miou, goal: maximize}}
seeds: [1]
settings: {{trainer.max_epochs: 2}}
parameters:
  {RATE}: {{values: [0.001, 1.0]}}
  {POLICY}: {{values: [{{class_path: lightning_mm.missing.UniformCombinations}}]}}
out: out
"""
LOGGED = """
trainer:
  logger: {class_path: lightning_mm.tracking.OfflineFirstWandbLogger, init_args: {project: tiny, name: one, save_dir: "${trainer.default_root_dir}"}}
  callbacks: [{class_path: lightning_mm.callbacks.BestModelCheckpoint, init_args: {monitor: val/miou, mode: max}}]
"""  # noqa: E501


@pytest.mark.slow
def test_an_agent_runs_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, text in {"base.yaml": BASE, "logged.yaml": LOGGED, "tune.yaml": TUNE}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "-c", "tune.yaml", "--wandb_sweep", "sweep.yaml"]) == 0
    with running_server(SweepServer) as server:
        known = {**os.environ, **environment(server, str(tmp_path / "client"))}
        known["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{known['PATH']}"  # of lightning-mm
        known |= {"PYTHONPATH": str(REPOSITORY), "LIGHTNING_MM_NO_TYPE_HOOK": "1"}
        known.pop("WANDB_SERVICE", None)
        for words in (["sweep", "sweep.yaml"], ["agent", "me/tiny/sweep1"]):
            command = [sys.executable, "-m", "wandb", *words]
            ran = subprocess.run(command, capture_output=True, text=True, env=known, timeout=300, check=False)
            assert ran.returncode == 0, ran.stderr
        (sweep,) = server.sweeps.values()
        assert not server.unknown
        assert [run[RATE] for run in sweep.given.values()] == [0.001, 1.0]
        assert sorted(server.runs) == sorted(sweep.given)
        for name, run in server.runs.items():
            assert (run.project, run.exit, run.meta["sweep"]) == ("tiny", 0, sweep.name), ran.stderr
            assert run.config[RATE] == sweep.given[name][RATE]
            assert run.config["trainer"]["max_epochs"] == 2
            assert 0 <= run.summary["val/miou"] <= 1
            assert [line["epoch"] for line in run.history if "val/miou" in line] == [0, 1]
            folder = tmp_path / "out" / "wandb_sweep" / name
            assert (folder / "best.ckpt").is_file()
            assert (folder / "fit.state.json").is_file()
            assert f"lr: {sweep.given[name][RATE]}" in (folder / "fit.yaml").read_text()
            assert "UniformCombinations" in (folder / "fit.yaml").read_text()
            assert "seed_everything: 1" in (folder / "fit.yaml").read_text()
    assert {path.name for path in (tmp_path / "out" / "wandb_sweep").iterdir()} == set(sweep.given)
