"""Every method of the studies through `lightning-mm compare`, and the searches through `lightning-mm tune`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.compare import read_study
from lightning_mm.compare.recipes import BASE, RECIPES
from lightning_mm.compare.tuning import read_tune
from tests.support.experiments import STUDIES, TUNES, small, stacked
from tests.support.fake_data import write_data
from tests.support.in_process import in_process

BASES = ("onehot", "pairwise", "shared")
TABLES = ("30", "50", "70", "2468")
MECHANISMS = ("mcar", "mar", "mnar", "block")


def repeats(method: str, named: list[str]) -> bool:
    """Whether it is a kind on another basis, or a method with another hard table or mechanism.

    Kinds are run on one basis, and SSF (`adapted`) on all; methods are run with one table, and SSF with all mechanisms.
    """
    kind, _, more = method.rpartition("_")
    if more in TABLES:
        return kind in named or (more != TABLES[0] and f"{kind}_{TABLES[0]}" in named)
    if more in MECHANISMS and kind != "adapted":
        return more != MECHANISMS[-1] and f"{kind}_{MECHANISMS[-1]}" in named
    return more in BASES and kind in named and kind != "adapted"


def methods_of(path: Path) -> list[str]:
    named = [one.name for one in read_study(path).methods if one.swept]
    return [method for method in named if not repeats(method, named)]


def shared_out(studies: list[Path]) -> dict[Path, list[str]]:
    """Every method of all studies to one that names it and has fewest so far; every family has a study with some."""
    named = {path: methods_of(path) for path in studies}
    dealt: dict[Path, list[str]] = {path: [] for path in studies}
    for method in dict.fromkeys(name for names in named.values() for name in names):
        fewest = min((path for path in studies if method in named[path]), key=lambda path: len(dealt[path]))
        dealt[fewest].append(method)
    for family in {path.parent for path in studies if not dealt[path]} - {path.parent for path in dealt if dealt[path]}:
        first = min(path for path in studies if path.parent == family)
        dealt[first] = named[first][:1]
    return {path: methods for path, methods in dealt.items() if methods}


SHARES = shared_out(STUDIES)


def test_shares_of_the_studies() -> None:
    every = {one.name for path in STUDIES for one in read_study(path).methods if one.swept}
    run = {method for methods in SHARES.values() for method in methods}
    assert all(repeats(method, sorted(every)) for method in every - run - {BASE})
    assert {path.parent for path in SHARES} == {path.parent for path in STUDIES}


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({path.parent.name for path in SHARES}))
def test_studies_run(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every method of the studies once, over all of them, with one incomplete combination; studies share their runs."""
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
