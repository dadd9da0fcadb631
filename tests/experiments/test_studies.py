"""Every study and recipe through `lightning-mm compare`, and the searches through `lightning-mm tune`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.compare import read_study
from lightning_mm.compare.recipes import RECIPES
from lightning_mm.compare.tuning import read_tune
from tests.support.experiments import STUDIES, TUNES, small, stacked
from tests.support.fake_data import write_data
from tests.support.in_process import in_process


def shared_out(studies: list[Path]) -> dict[Path, list[str]]:
    """Every recipe to a study that has it and has fewest so far; every other study runs the method that fewest name."""
    methods = {path: [one for one in read_study(path).methods if one.swept] for path in studies}
    named = Counter(one.name for each in methods.values() for one in each)
    dealt: dict[Path, list[str]] = {path: [] for path in studies}
    for what in dict.fromkeys(one.recipe.what for each in methods.values() for one in each):
        having = {path: one.name for path, each in methods.items() for one in reversed(each) if one.recipe.what == what}
        fewest = min(having, key=lambda path: len(dealt[path]))
        dealt[fewest].append(having[fewest])
    for path, each in methods.items():
        dealt[path] = dealt[path] or [min(each, key=lambda one: named[one.name]).name]
    return dealt


SHARES = shared_out(STUDIES)


def test_every_study_and_recipe_is_run() -> None:
    studies = {path: read_study(path) for path in STUDIES}
    run = {study.method(name).recipe.what for path, study in studies.items() for name in SHARES[path]}
    assert run == {one.recipe.what for study in studies.values() for one in study.methods if one.swept}
    assert all(SHARES[path] for path in STUDIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({path.parent.name for path in SHARES}))
def test_studies_run(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every study and every recipe, with one incomplete combination; studies share their runs."""
    write_data(family, tmp_path / "data")
    monkeypatch.setattr("lightning_mm.compare.processes", in_process)
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for path in (path for path in SHARES if path.parent.name == family):
        run_one(path, here, capfd)
    assert {each.name.partition("-")[0] for each in here.iterdir()} == {"report", "study"}, "nothing outside of --out"


def run_one(path: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study, report = read_study(path), f"report-{path.stem}"
    out = f"study-{study.out.name}"  # shared by those that share their runs
    one = study.modalities.incomplete()[0]
    settings = {**small(path.parent.name), "trainer.accelerator": "cpu", "trainer.limit_test_batches": 1}
    command = ["compare", "-c", str(path), "--fast", "--seeds", "0", "--combinations", one]
    command += ["--methods", *SHARES[path], "--out", out, "--results", report]
    command += ["--set", *(f"{key}={value}" for key, value in settings.items())]
    assert main(command) == 0, capfd.readouterr().err
    rows = [line.split(",")[:2] for line in (here / report / "sweep.csv").read_text().splitlines()[1:]]
    skipped = {method for method in SHARES[path] if f"{method}: not run" in capfd.readouterr().out}
    for method in set(SHARES[path]) - skipped:
        found = {combination for name, combination in rows if name == method}
        each = study.method(method).recipe.each
        assert found == ({one} if each else set(study.modalities.combinations())), method
        assert list((here / out / method).rglob("test.done.json"))
    assert not skipped - {name for name in SHARES[path] if study.method(name).recipe.what == RECIPES["bn_refit"].what}


@pytest.mark.slow
@pytest.mark.parametrize("path", TUNES, ids=lambda path: path.parent.name)
def test_searches_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two trials with all seeds, after their base; the best settings are a config to stack on the others."""
    write_data(path.parent.name, tmp_path / "data")
    monkeypatch.setattr("lightning_mm.compare.processes", in_process)
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    settings = {**small(path.parent.name), "trainer.accelerator": "cpu"}
    more = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    assert main(["fit", *stacked(path.with_name("base.yaml")), *more, *few, "--trainer.logger", "false"]) == 0
    command = ["tune", "-c", str(path), "--fast", "--trials", "2", "--set"]
    assert main([*command, *(f"{key}={value}" for key, value in settings.items())]) == 0, capfd.readouterr().err
    out = tmp_path / f"{read_tune(path).out}_fast"
    assert len((out / "tune.csv").read_text().splitlines()) == 3
    assert main(["fit", *stacked(path.with_name("ssf.yaml")), "-c", str(out / "best.yaml"), "--print_config"]) == 0
    assert main(["tune", "-c", str(path), "--wandb_sweep", "sweep.yaml"]) == 0
    assert "seed_everything" in (tmp_path / "sweep.yaml").read_text()
