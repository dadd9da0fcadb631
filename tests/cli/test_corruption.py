"""Damaged modalities on the command line: a study with ``corruptions``, and a setting of the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.compare import Executor, InProcess
from lightning_mm.compare.executor import Perform
from lightning_mm.results import read
from lightning_mm.results.corruption import read_corruption
from tests.support.experiments import EXPERIMENTS, small
from tests.support.fake_data import write_data
from tests.support.tiny_run import BASE

STUDY = EXPERIMENTS / "av_digits" / "study_corruption.yaml"
KINDS = ["gaussian_noise", "blur", "occlusion", "missing_pixels"]


@contextmanager
def in_process(perform: Perform, jobs: int) -> Iterator[Executor]:
    """Without worker processes, each of which would import Lightning."""
    yield InProcess(perform)


@pytest.mark.slow
def test_the_study_runs_and_sweeps_of_its_cells_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_data("av_digits", tmp_path / "data")
    monkeypatch.setattr("lightning_mm.compare.processes", in_process)
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    settings = {**small("av_digits"), "trainer.accelerator": "cpu"}
    command = ["compare", "-c", str(STUDY), "--fast", "--seeds", "0", "--out", "out", "--results", "results"]
    command += ["--methods", "zero_fill", "adapted"]  # the third one is tests/experiments/test_studies.py's
    assert main([*command, "--set", *(f"{key}={value}" for key, value in settings.items())]) == 0, (
        capfd.readouterr().err
    )
    result, swept = read_corruption("results"), read("results/sweep.csv")
    assert result.methods == ["zero_fill", "adapted"]
    assert result.damages == [
        *(("image", kind) for kind in KINDS),
        *(("audio", kind) for kind in [*KINDS, "dropped_frames"]),
    ]
    assert result.severities == [1, 3, 5]
    for method in result.methods:  # the rows of the sweep itself, in which nothing is damaged
        assert result.figure(method, "", "clean", 0).value == swept.value(method, "image+audio")
        assert result.figure(method, "image", "left_out", 0).value == swept.value(method, "audio")
    assert swept.combinations == ["image", "audio", "image+audio"], "no row on damaged data is a combination"
    for damage in result.damages:  # with everything available an adapted network is its base, damaged or not
        kept = [result.figure(method, *damage, 3).value for method in ("zero_fill", "adapted")]
        assert kept[0] == kept[1]
    assert "| audio: dropped frames | 5 |" in Path("results/corruption.md").read_text()
    assert Path("results/corruption.png").stat().st_size > 10_000

    cell = ["sweep", "-c", "out/base/seed0/cell.yaml", "--ckpt_path", "out/base/seed0/best.ckpt", "--bootstrap", "0"]
    setting = [
        "--data.corrupt",
        "{test: {image: {class_path: lightning_mm.data.GaussianNoise, init_args: {severity: 3}}}}",
    ]
    assert main([*cell, *setting, "--out", "damaged"]) == 0, capfd.readouterr().err
    expected = result.figure("zero_fill", "image", "gaussian_noise", 3).value
    assert read("damaged/sweep.csv").value("zero_fill", "image+audio") == expected
    noise = ["--corruptions", "{image: [{class_path: GaussianNoise}]}", "--severities", "[3]"]
    assert main([*cell, *noise, "--out", "again"]) == 0, capfd.readouterr().err
    assert read_corruption("again").figure("zero_fill", "image", "gaussian_noise", 3).value == expected
    assert main([*cell, "--out", "again"]) == 0, capfd.readouterr().err
    assert not list(Path("again").glob("corruption.*")), "these belong to the sweep that was replaced"
    assert main([*cell, *noise, "--shard", "1/2", "--out", "part"]) == 1
    assert "corruptions: not with a shard" in capfd.readouterr().err


def test_a_mistake_is_found_before_anything_is_swept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    command = ["-c", str(tmp_path / "base.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *command]) == 0
    weights = ["--ckpt_path", str(tmp_path / "weights" / "best.ckpt")]
    assert main(["sweep", *command, *weights, "--corruptions", "{rg: [{class_path: GaussianNoise}]}"]) == 1
    assert "corruptions: unknown modality 'rg'; the data has ['rgb', 'depth']" in capfd.readouterr().err
    assert main(["sweep", *command, *weights, "--severities", "[3]"]) == 1
    assert "severities: there are no corruptions; add e.g. --corruptions" in capfd.readouterr().err
    assert not (tmp_path / "sweep" / "sweep.csv").exists()
