"""One run of Weights & Biases over all starts of a fit: killed, ended by a queue, offline and online."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.results import read
from tests.support.offline_run import OfflineRun
from tests.support.recorded_fit import Commands, write_configs
from tests.support.wandb_server import Server, StoredRun, environment, running_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="commands are forked")]
Line = dict[str, Any]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def commands(work: Path, server: Server) -> Iterator[Commands]:
    known = environment(server, str(work / "client"))
    known = {key: value for key, value in known.items() if key != "WANDB_DATA_DIR"}
    with Commands({**known, "HOME": str(work / "home")}) as running:
        yield running


def fit(folder: Path, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return ["fit", *write_configs(folder), f"--trainer.default_root_dir={folder}", *more]


def resumed(folder: Path) -> list[str]:
    return fit(folder, "--ckpt_path", str(folder / "last.ckpt"))


def state(folder: Path) -> Any:
    return json.loads((folder / "wandb_run.json").read_text())


def sync(words: str, server: Server, work: Path) -> None:
    command = [sys.executable, "-m", *words.split()]
    known = {**os.environ, **environment(server, str(work / "sync")), "HOME": str(work / "elsewhere")}
    subprocess.run(command, env=known, check=True, capture_output=True, timeout=120)


def check(run: StoredRun, steps: int = 12) -> None:
    """A run is whole: every step once, rising, each with its figures."""
    assert [line["_step"] for line in run.history] == list(range(steps))
    assert [line["trainer/global_step"] for line in run.history] == list(range(steps))
    assert [line["train/step"] for line in run.history] == list(range(1, steps + 1)), "logged by the batch itself"
    assert [line["_step"] for line in run.history if "val/loss" in line] == list(range(3, steps, 4))
    assert not [offset for offset, count in Counter(run.writes).items() if count > 1], "no line is sent twice"


def sweep(folder: Path) -> list[str]:
    return ["sweep", *fit(folder)[1:], "--ckpt_path", str(folder / "last.ckpt"), "--bootstrap", "0"]


def start_twice(folder: Path, how: str, server: Server, commands: Commands) -> tuple[StoredRun, str]:
    """Interrupt a fit and resume it; returns its run and what was said."""
    before = set(server.runs)
    ended = commands.run(*fit(folder), how=how)
    assert ended.code == (143 if how.startswith("term") else -9), ended.text
    (name,) = set(server.runs) - before
    if how.startswith("kill-late"):
        assert len(server.runs[name].lines) >= 4, "lines have arrived that come again after the resume"
    ended = commands.run(*resumed(folder), SLURM_JOB_ID="77", SLURM_RESTART_COUNT="1")
    assert ended.code == 0, ended.text
    assert set(server.runs) - before == {name}
    return server.runs[name], ended.text


@pytest.mark.parametrize("how", ["kill:5", "term:5"])
def test_online_a_fit_that_has_lost_lines_is_one_run(how: str, work: Path, server: Server, commands: Commands) -> None:
    check(start_twice(work / how.replace(":", "-"), how, server, commands)[0])


def test_online_a_fit_whose_lines_have_arrived_is_one_run(work: Path, server: Server, commands: Commands) -> None:
    folder = work / "online"
    run, text = start_twice(folder, "kill-late:5", server, commands)
    check(run)
    assert run.exit == 0
    assert run.config["slurm"] == {"job_id": "77", "restart_count": "1"}
    assert run.config["data"]["batch_size"] == 2, "the config is at the top"
    assert run.meta["jobType"] == "fit"
    assert (state(folder)["id"], state(folder)["entity"], state(folder)["step"]) == (run.name, "me", 11)
    assert "wandb sync" not in text

    ended = commands.run(*sweep(folder))
    assert ended.code == 0, ended.text
    (swept,) = [one for one in server.runs.values() if one.meta.get("jobType") == "sweep"]
    assert swept.config["fit_run"] == {"id": run.name, "project": "fits", "entity": "me", "url": state(folder)["url"]}
    assert [one for one in server.artifacts.values() if one.kind == "table" and one.state == "COMMITTED"]
    assert not list((folder / "wandb").rglob("lightning-mm-data")), "what was sent is not kept"


@pytest.fixture(scope="module")
def offline(work: Path, commands: Commands) -> tuple[Path, str]:
    """The folder of a fit that was killed offline and resumed where the server can be reached; and what was said."""
    folder = work / "offline"
    assert commands.run(*fit(folder), how="kill-late:5", WANDB_MODE="offline").code == -9
    ended = commands.run(*resumed(folder))
    assert ended.code == 0, ended.text
    return folder, ended.text


def test_offline_it_is_one_run_and_sync_sends_every_step_once(
    offline: tuple[Path, str], work: Path, server: Server
) -> None:
    folder, text = offline
    assert "earlier parts of this run are offline and not uploaded yet; this part" in text
    first, second = sorted((folder / "wandb").glob("offline-run-*"))
    steps = [[line["_step"] for line in OfflineRun(part).history] for part in (first, second)]
    assert steps[0] + steps[1] == list(range(12))
    assert len(steps[0]) >= 4, "steps were logged after the checkpoint of step 3"
    words = next(line for line in text.splitlines() if line.startswith("wandb sync "))
    assert words == f"wandb sync {first} {second}"
    sync(words, server, work)
    check(server.runs[state(folder)["id"]])


def test_tables_reach_the_server_from_another_machine(
    offline: tuple[Path, str], work: Path, server: Server, commands: Commands
) -> None:
    folder, before = offline[0], set(server.runs)
    ended = commands.run(*sweep(folder), WANDB_MODE="offline", LIGHTNING_MM_STUDY="mine")
    assert ended.code == 0, ended.text
    home = work / "home"
    assert not list(home.rglob("staging")), "nothing is kept in the home folder"
    shutil.rmtree(home, ignore_errors=True)
    sync(ended.text.strip().splitlines()[-1], server, work)
    (name,) = {name for name in set(server.runs) - before if server.runs[name].meta.get("jobType") == "sweep"}
    run = server.runs[name]
    assert run.config["fit_run"] == {"id": state(folder)["id"], "project": "fits"}
    assert run.meta["groupName"] == "mine"
    (table,) = [one for one in server.artifacts.values() if one.run == name and one.kind == "table"]
    assert table.state == "COMMITTED"
    assert [file for file in table.files if file.endswith(".table.json")]


def test_the_shards_of_a_sweep_are_one_run_when_they_are_merged(
    offline: tuple[Path, str], work: Path, server: Server, commands: Commands
) -> None:
    folder, before, out = offline[0], set(server.runs), work / "merged"
    for shard in ("1/2", "2/2"):
        ended = commands.run(*sweep(folder), "--shard", shard)
        assert ended.code == 0, ended.text
    assert set(server.runs) == before, "a shard alone is no run"
    for _ in range(2):  # once more: the same run
        ended = commands.run("merge", str(folder / "sweep_shards"), "--out", str(out))
        assert ended.code == 0, ended.text
    (name,) = set(server.runs) - before
    run = server.runs[name]
    assert (run.meta["jobType"], run.exit) == ("sweep", 0)
    assert run.config["fit_run"]["id"] == state(folder)["id"]
    logged = {key: value for line in run.history for key, value in line.items()}
    for row in read(out).rows:
        assert logged[f"sweep/{row.combination}/{row.metric}"] == row.value
    pictures = {path.name for path in (out / "pictures").glob("*.png")}
    assert len(pictures) == 3
    ended = commands.run(*sweep(folder), "--out", str(work / "whole"), WANDB_MODE="disabled")
    assert ended.code == 0, ended.text
    for name in pictures:
        assert (out / "pictures" / name).read_bytes() == (work / "whole" / "pictures" / name).read_bytes()


def test_a_second_logger_is_added_on_the_command_line(work: Path, server: Server, commands: Commands) -> None:
    folder, before = work / "two", set(server.runs)
    more = ["--trainer.logger+=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={folder}/csv"]
    words = fit(folder, *more, "--trainer.logger.flush_logs_every_n_steps=1")
    ended = commands.run(*words)
    assert ended.code == 2
    assert "in a setting that += has made a list of; write it as a list in the config file" in ended.text
    assert "and then add to it with --trainer.logger+=" in ended.text

    config = folder / "logger.yaml"
    config.write_text(config.read_text().replace("  logger:\n    class_path", "  logger:\n  - class_path"))
    ended = commands.run(*words)
    assert ended.code == 0, ended.text
    (name,) = set(server.runs) - before
    check(server.runs[name])
    (table,) = folder.glob("csv/**/metrics.csv")
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert [int(line["step"]) for line in lines if line["train/step"]] == list(range(12))
    assert ended.text.count("wandb sync") == 0


def test_another_fit_in_the_folder_is_a_new_run(offline: tuple[Path, str], work: Path, commands: Commands) -> None:
    folder = work / "another"
    shutil.copytree(offline[0], folder, ignore=shutil.ignore_patterns("wandb"))
    ids = [state(folder)["id"]]
    last = ["--ckpt_path", str(folder / "last.ckpt"), "--trainer.max_epochs=4"]
    for more in ([*last, "--model.init_args.optimizer.init_args.lr=0.02"], ["--trainer.max_epochs=1"]):
        ended = commands.run(*fit(folder, *more), WANDB_MODE="offline")
        assert ended.code == 0, ended.text
        ids.append(state(folder)["id"])
        word = f"run {ids[0]} of {folder} has other settings: this fit is a new run"
        assert (word in ended.text) == ("--ckpt_path" in more)
    assert len(set(ids)) == 3


def test_a_failure_of_wandb_costs_neither_checkpoint_nor_exit_code(
    work: Path, server: Server, commands: Commands
) -> None:
    folder = work / "failure"
    ended = commands.run(*fit(folder, "--trainer.max_epochs=2"), how="wandb:5")
    assert ended.code == 0, ended.text
    assert "Traceback" not in ended.text
    assert (folder / "last.ckpt").is_file()
    ended = commands.run(*resumed(folder))
    assert ended.code == 0, ended.text
    check(server.runs[state(folder)["id"]])
