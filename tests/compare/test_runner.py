"""Running a study: every step once, choices on validation data, nothing lost without being asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare import InProcess, collect, run_study
from lightning_mm.errors import LightningMMError
from tests.support.studies import COMMANDS, fake, read

RUN = InProcess(fake)


def test_every_step_once_and_the_best_value_is_tested(tmp_path: Path) -> None:
    methods = {
        "zero_fill": None,
        "bn_refit": None,
        "adapted": {"configs": ["ssf.yaml"], "tune": {"model.lr": [0.1, 0.2]}},
    }
    study = read(tmp_path, methods=methods, out=str(tmp_path / "out" / "study"))
    said: list[str] = []
    facts, choices = run_study(study, RUN, said.append)
    assert choices == {"adapted": {"key": "model.lr", "value": 0.2, "means": {"0.1": 0.505, "0.2": 0.605}}}
    assert (study.out / "adapted/lr=0.2/seed1/test.done.json").is_file()
    assert not (study.out / "adapted/lr=0.1/seed1/test.done.json").exists()
    result = collect(study, facts, choices)
    assert result.methods == ["zero_fill", "adapted"]
    assert result.mean("adapted") == pytest.approx(0.605)
    assert result.seconds == {"adapted": 2.0}
    assert result.notes == ["bn_refit: not run, no BatchNorm in this network"]
    assert result.parameters["zero_fill"]["trained"] == 0
    assert result.parameters["adapted"]["trained"] == 7
    assert any("lr = 0.2, chosen on validation data" in line for line in said)

    ran = (study.out / COMMANDS).read_text()
    assert len(set(ran.splitlines())) == len(ran.splitlines())
    assert run_study(study, RUN, said.append) == (facts, choices)
    assert (study.out / COMMANDS).read_text() == ran, "nothing is run twice"


def test_what_needs_a_lost_step_is_run_again(tmp_path: Path) -> None:
    study = read(tmp_path, methods={"head_only": None}, out=str(tmp_path / "out"), seeds=[0])
    run_study(study, RUN, str)
    (study.out / "base/seed0/best.ckpt").unlink()
    (study.out / "head_only/seed0/sweep/sweep.csv").unlink()
    run_study(study, RUN, str, again=True)
    ran = (study.out / COMMANDS).read_text().splitlines()
    assert ran == [
        "base/seed0 fit",
        "head_only/seed0 fit",
        "head_only/seed0 test",
        "base/seed0 fit",
        "head_only/seed0 test",
    ]


def test_a_value_that_diverged_is_not_chosen(tmp_path: Path) -> None:
    methods: dict[str, Any] = {"adapted": {"configs": ["ssf.yaml"], "tune": {"model.lr": [0.7, 0.1, 0.8]}}}
    study = read(tmp_path, methods=methods, out=str(tmp_path / "out" / "study"), seeds=[0])
    _, choices = run_study(study, RUN, str)
    assert choices["adapted"]["value"] == 0.1
    methods["adapted"]["tune"] = {"model.lr": [0.7, 0.8]}
    hopeless = read(tmp_path, methods=methods, out=str(tmp_path / "out" / "study"), seeds=[0])
    with pytest.raises(LightningMMError, match=r"training diverged for every value of model.lr out of \[0.7, 0.8\]"):
        run_study(hopeless, RUN, str)


def test_finished_trainings_are_deleted_only_when_told_to(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"methods": {"zero_fill": None}, "out": str(tmp_path / "out" / "study"), "seeds": [0]}
    run_study(read(tmp_path, **settings), RUN, str)
    changed = read(tmp_path, **settings, settings={"trainer.max_epochs": 9})
    with pytest.raises(LightningMMError, match=r"1 finished trainings .* base/seed0 for one; give --again"):
        run_study(changed, RUN, str)
    before = (changed.out / "base/seed0/fit.done.json").read_text()
    run_study(changed, RUN, str, again=True)
    assert (changed.out / "base/seed0/fit.done.json").read_text() != before


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    study = read(tmp_path, out=str(tmp_path / "out"))
    study.out.mkdir()
    with (study.out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(
            LightningMMError,
            match=r"another process \(.*\) works in .*out; wait for it, or give another folder with --out",
        ):
            run_study(study, RUN, str)
