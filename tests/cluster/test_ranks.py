"""Several ranks of one cell: rank 0 decides, the others run what it announces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.cluster.graph import run_cell
from lightning_mm.cluster.graph.ranks import COMMAND, Ranks, command_of_launched, ranks_of
from lightning_mm.cluster.graph.run_cell import follow
from lightning_mm.errors import NotApplicableError

COMMANDS = [["fit", "--print_config"], ["fit", "-c", "a"], ["mean_input", "-c", "a"], ["sweep", "-c", "b"]]


def test_the_others_run_what_all_ranks_run(tmp_path: Path) -> None:
    ran: list[list[str]] = []

    def run(command: list[str]) -> dict[str, Any]:
        ran.append(command)
        if command[0] == "fit":
            raise NotApplicableError("rank 0 says so")
        return {}

    with ThreadPoolExecutor() as pool:
        code = pool.submit(follow, run, Ranks(1, 2, tmp_path / "ranks"))
        first = Ranks(0, 2, tmp_path / "ranks")
        for command in COMMANDS:
            first.announce(command)
        first.end()
        assert code.result(timeout=20) == 0
    assert ran == [["fit", "-c", "a"], ["sweep", "-c", "b"]]


def test_a_rank_that_fails_alone_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_cell, "GRACE", 0.0)

    def run(command: list[str]) -> dict[str, Any]:
        raise RuntimeError("only here")

    Ranks(0, 2, tmp_path).announce(["fit"])
    assert follow(run, Ranks(1, 2, tmp_path)) == 1


def test_one_rank_announces_nothing(tmp_path: Path) -> None:
    alone = ranks_of(tmp_path, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"})
    assert (alone.number, alone.count) == (0, 1), "a batch script without srun is one process"
    alone.announce(["fit"])
    alone.end()
    assert not list(tmp_path.iterdir())


def test_every_start_of_a_task_has_its_own_place(tmp_path: Path) -> None:
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
    before, after = ranks_of(tmp_path, step), ranks_of(tmp_path, {**step, "SLURM_RESTART_COUNT": "1"})
    assert (before.number, before.count) == (3, 4)
    assert before.folder != after.folder


def test_a_rank_that_lightning_starts_runs_the_command_of_the_first() -> None:
    inside = {COMMAND: '["fit", "-c", "a"]', "LOCAL_RANK": "1"}
    assert command_of_launched(inside) == ["fit", "-c", "a"]
    assert command_of_launched({**inside, "LOCAL_RANK": "0"}) is None
    assert command_of_launched({"LOCAL_RANK": "1"}) is None
    assert command_of_launched({}) is None
