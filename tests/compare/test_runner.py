"""Running steps: each once, in order, side by side; choices on validation data; failures and kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_mm.adapters.kinds.bn_refit import NoBatchNormError
from lightning_mm.cli import main
from lightning_mm.compare import collect, run_study
from lightning_mm.compare.cells import finished, perform, resolve
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.runner import StepError
from lightning_mm.errors import LightningMMError
from lightning_mm.results import SweepResult, SweepRow, write_csv, write_json
from tests.compare.test_study import read
from tests.support.repository import REPOSITORY

VALUES = {"lr=0.1": 0.5, "lr=0.2": 0.6, "lr=0.7": float("nan"), "lr=0.8": float("nan")}
COMBINATIONS = ("a", "b", "c", "a+b", "a+c", "b+c", "a+b+c")


def fake(step: Step) -> dict[str, Any]:
    """Stands in for training and sweeping in a worker: writes what they would write."""
    return perform(step, lambda command: _fake_command(step, command))


def _fake_command(step: Step, command: list[str]) -> dict[str, Any]:
    if "--print_config" in command:
        print(yaml.safe_dump({"seed_everything": 0, "trainer": {}, "model": {}, "data": {"modalities": ["a"]}}))
        raise SystemExit(0)
    with (step.folder.parents[2] / "commands.txt").open("a") as file:
        file.write(f"{step.method} {step.stage}\n")
    if step.method == "bn_refit":
        raise NoBatchNormError("no BatchNorm in this network")
    if command[0] == "fit":
        (step.folder / "best.ckpt").write_text("weights")
        return {"seconds": 3.0, "cpu_seconds": 2.0, "trained": 7}
    value = next((value for part, value in VALUES.items() if part in str(step.folder)), 0.4)
    seed = int(step.folder.name.removeprefix("seed"))
    rows = [
        SweepRow(step.method, name, name.count("+") + 1, "accuracy", value + seed / 100, 9, seed)
        for name in COMBINATIONS
    ]
    result = SweepResult(rows, ["a", "b", "c"], "accuracy", parameters={step.method: {"trained": 5, "base": 50}})
    folder = Path(command[command.index("--out") + 1])
    write_csv(result, folder / "sweep.csv")
    write_json(result, folder / "sweep.json")
    return {}


def fail(step: Step) -> dict[str, Any]:
    raise RuntimeError("out of luck")


@pytest.mark.slow
def test_every_step_once_and_the_best_value_is_tested(tmp_path: Path) -> None:
    methods = {
        "zero_fill": None,
        "bn_refit": None,
        "adapted": {"configs": ["ssf.yaml"], "tune": {"model.lr": [0.1, 0.2]}},
    }
    study = read(tmp_path, methods=methods, out=str(tmp_path / "out" / "study"))
    said: list[str] = []
    facts, choices = run_study(study, fake, 2, said.append)
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

    ran = sorted(study.out.rglob("commands.txt"))
    before = [path.read_text() for path in ran]
    assert run_study(study, fake, 1, said.append) == (facts, choices)
    assert [path.read_text() for path in ran] == before, "nothing is run twice"


@pytest.mark.slow
def test_a_value_that_diverged_is_not_chosen(tmp_path: Path) -> None:
    methods = {"adapted": {"configs": ["ssf.yaml"], "tune": {"model.lr": [0.7, 0.1, 0.8]}}}
    study = read(tmp_path, methods=methods, out=str(tmp_path / "out" / "study"), seeds=[0])
    _, choices = run_study(study, fake, 1, str)
    assert choices["adapted"]["value"] == 0.1
    methods["adapted"]["tune"] = {"model.lr": [0.7, 0.8]}
    hopeless = read(tmp_path, methods=methods, out=str(tmp_path / "out" / "study"), seeds=[0])
    with pytest.raises(LightningMMError, match=r"training diverged for every value of model.lr out of \[0.7, 0.8\]"):
        run_study(hopeless, fake, 1, str)


@pytest.mark.slow
def test_finished_trainings_are_deleted_only_when_told_to(tmp_path: Path) -> None:
    settings = {"methods": {"zero_fill": None}, "out": str(tmp_path / "out" / "study"), "seeds": [0]}
    run_study(read(tmp_path, **settings), fake, 1, str)
    changed = read(tmp_path, **settings, settings={"trainer.max_epochs": 9})
    with pytest.raises(LightningMMError, match=r"1 finished trainings .* base/seed0 for one; give --again"):
        run_study(changed, fake, 1, str)
    before = (changed.out / "base/seed0/fit.done.json").read_text()
    run_study(changed, fake, 1, str, again=True)
    assert (changed.out / "base/seed0/fit.done.json").read_text() != before


@pytest.mark.slow
def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also when that one was killed before the worker could look who it is."""
    code = (
        "import sys, time; from lightning_mm.compare.cells import die_with_parent; die_with_parent(1); time.sleep(60)"
    )
    run = subprocess.run([sys.executable, "-c", code], timeout=30, check=False, env={**os.environ})
    assert run.returncode == 1


def test_the_log_holds_the_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    step = first_step(tmp_path)

    def run(command: list[str]) -> dict[str, Any]:
        raise RuntimeError("out of luck")

    with capfd.disabled(), pytest.raises(RuntimeError):
        perform(step, run)
    assert "RuntimeError: out of luck" in (step.folder / "fit.log").read_text()


def test_a_step_whose_files_are_gone_is_run_again(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    fake(step)
    assert finished(step) is not None
    (step.folder / "best.ckpt").unlink()
    assert finished(step) is None
    step.marker.write_text("[]")
    assert finished(step) is None


@pytest.mark.slow
def test_a_step_that_fails_is_named(tmp_path: Path) -> None:
    study = read(tmp_path, methods={"zero_fill": None}, out=str(tmp_path / "out"), seeds=[0])
    with pytest.raises(StepError, match=r"base/seed0: fit failed: RuntimeError: out of luck\n.*log: .*fit\.log"):
        run_study(study, fail, 1, str)


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    study = read(tmp_path, out=str(tmp_path / "out"))
    study.out.mkdir()
    with (study.out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LightningMMError, match="another process works on the study"):
            run_study(study, fake, 1, str)


def first_step(folder: Path) -> Step:
    return Plan(read(folder, out=str(folder / "a" / "b" / "out"))).steps({})[0]


def test_what_an_unfinished_run_left_is_taken_out(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    (step.folder / "sweep").mkdir(parents=True)
    (step.folder / "sweep" / "sweep.csv").write_text("old")
    step.marker.write_text(json.dumps({"key": "another"}))
    assert finished(step) is None
    assert fake(step)["cpu_seconds"] == 2.0
    assert sorted(path.name for path in step.folder.iterdir() if path.name != ".lock") == [
        "best.ckpt",
        "cell.yaml",
        "fit.done.json",
        "fit.log",
    ]
    step.marker.write_text("{half")
    assert finished(step) is None


def test_training_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    step = first_step(tmp_path)

    def run(command: list[str]) -> dict[str, Any]:
        return _fake_command(step, command) if "--print_config" in command else {}

    with pytest.raises(LightningMMError, match=r"training wrote no best\.ckpt; the study's config needs a ModelCheck"):
        perform(step, run)
    assert finished(step) is None


def test_settings_are_handed_on_as_the_command_line_takes_them(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def run(command: list[str]) -> dict[str, Any]:
        seen.append(command)
        print(yaml.safe_dump({key: {} for key in ("seed_everything", "trainer", "model", "data")}))
        raise SystemExit(0)

    resolve([Path("x.yaml")], {"a.b": [1, 2], "c": "word", "d": False, "e": 0.1}, run)
    assert seen == [["fit", "-c", "x.yaml", "--a.b=[1, 2]", "--c=word", "--d=false", "--e=0.1", "--print_config"]]


STUDY = """
config: [{scenes}/base.yaml]
seeds: [0]
bootstrap: 20
settings: {{data.dataset.init_args.size: 32, data.dataset.init_args.test_length: 8, data.batch_size: 4}}
methods:
  zero_fill:
  mean_fill:
  bn_refit:
  adapted: {{configs: [{scenes}/ssf.yaml], tune: {{model.init_args.optimizer.init_args.lr: [0.01, 0.03]}}}}
  head_only:
  full_finetune:
  dedicated:
"""


def command(folder: Path, name: str) -> list[str]:
    if not (folder / "study.yaml").is_file():
        (folder / "study.yaml").write_text(STUDY.format(scenes=REPOSITORY / "experiments" / "scenes"))
    arguments = ["compare", "-c", str(folder / "study.yaml"), "--fast", "--combinations", "depth"]
    return [*arguments, "--out", str(folder / name), "--results", str(folder / f"{name}_report")]


def contents(folder: Path) -> dict[str, Any]:
    """All result files; what a clock says is left out."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    notes = json.loads(found.pop("sweep.json"))
    assert notes.pop("seconds")
    found["sweep.json"] = {key: value for key, value in notes.items() if key != "commit"}
    study = json.loads(found.pop("study.json"))
    found["study.json"] = {key: value for key, value in study.items() if "seconds" not in key and key != "commit"}
    found["sweep.md"] = [line for line in found["sweep.md"].decode().splitlines() if " s |" not in line]
    return found


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, "whole")) == 0
    out = capsys.readouterr().out
    assert "recovered gap" in out
    assert "full_finetune" in out
    environment = {**os.environ, "LIGHTNING_MM_NO_TYPE_HOOK": "1"}
    seed = random.SystemRandom().randrange(1000)
    draw = random.Random(seed)
    kills = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_mm", *command(tmp_path, "killed")],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=draw.uniform(8, 25))
        except subprocess.TimeoutExpired:
            kills += 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills, "it was never killed: it is faster than this test thinks"
    assert main(command(tmp_path, "killed")) == 0, f"seed of the kills: {seed}"
    whole, killed = contents(tmp_path / "whole_report"), contents(tmp_path / "killed_report")
    assert set(whole) == set(killed)
    for name, content in whole.items():
        assert killed[name] == content, f"{name} differs; seed of the kills: {seed}"


@pytest.mark.slow
def test_a_cell_can_be_run_alone(tmp_path: Path) -> None:
    arguments = [*command(tmp_path, "study"), "--methods", "zero_fill", "dedicated"]
    assert main(arguments) == 0
    cell = tmp_path / "study" / "dedicated" / "depth" / "seed0"
    facts = json.loads((cell / "test.done.json").read_text())
    alone = [part if part != str(cell / "sweep") else str(tmp_path / "alone") for part in facts["command"]]
    kept = torch.load(cell / "best.ckpt", weights_only=True)["state_dict"]
    (cell / "best.ckpt").unlink()
    assert main(json.loads((cell / "fit.done.json").read_text())["command"]) == 0
    assert main(alone) == 0
    assert (tmp_path / "alone" / "sweep.csv").read_bytes() == (cell / "sweep" / "sweep.csv").read_bytes()
    again = torch.load(cell / "best.ckpt", weights_only=True)["state_dict"]
    assert set(again) == set(kept)
    for name, value in kept.items():
        torch.testing.assert_close(again[name], value, rtol=1e-3, atol=1e-6, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(tmp_path, "study")
    for extra, message in (
        (["--jobs", "0"], "--jobs: expected 1 or more"),
        (["--methods", "adaptd"], "--methods: this study has base, zero_fill"),
        (["--set", "nothing"], "--set: expected KEY=VALUE, got 'nothing'"),
        (["nothing"], "unrecognized arguments: nothing"),
        (["--set", "data.modalities=[rgb]"], "a study compares the modalities of its config"),
        (["--set", "model.init_args.optimizer.init_args.lr=1"], "adapted tunes it; change the study"),
        (["--job", "2"], "unrecognized arguments: --job"),
    ):
        assert main([*arguments, *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["compare", "-c", str(tmp_path / "nowhere.yaml")]) == 1
    assert "no file at" in capsys.readouterr().err
    assert main(["compare", "-c", str(tmp_path / "study.yaml"), "--fast", "--dry_run"]) == 0
    assert "study_fast/base/seed0: fit" in capsys.readouterr().out, "a quick look leaves the study's own runs alone"
    assert main([*arguments, "--dry_run"]) == 0
    assert "open  " in capsys.readouterr().out
    assert not (tmp_path / "study").exists()
