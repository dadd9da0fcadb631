"""Every method of the studies through `lightning-mm compare`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.compare import Executor, InProcess, read_study
from lightning_mm.compare.executor import Perform
from lightning_mm.compare.recipes import BASE, RECIPES
from tests.support.experiments import STUDIES, name_of, small
from tests.support.fake_data import write_data


def shared_out(studies: list[Path]) -> dict[Path, list[str]]:
    """Every method of all studies to one that names it and has fewest so far; every family has a study with some."""
    named = {path: [one.name for one in read_study(path).methods if one.name != BASE] for path in studies}
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
    named = {one.name for path in STUDIES for one in read_study(path).methods}
    assert {method for methods in SHARES.values() for method in methods} == named - {BASE}
    assert {path.parent for path in SHARES} == {path.parent for path in STUDIES}


@contextmanager
def in_process(perform: Perform, jobs: int) -> Iterator[Executor]:
    """Without worker processes, each of which would import Lightning."""
    yield InProcess(perform)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHARES, ids=name_of)
def test_studies_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every method of the studies once, over all of them, with one incomplete combination."""
    family, study = path.parent.name, read_study(path)
    write_data(family, tmp_path / "data")
    monkeypatch.setattr("lightning_mm.compare.processes", in_process)
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    one = study.modalities.incomplete()[0]
    settings = {**small(family), "trainer.accelerator": "cpu", "trainer.limit_test_batches": 1}
    command = ["compare", "-c", str(path), "--fast", "--seeds", "0", "--combinations", one]
    command += ["--methods", *SHARES[path], "--out", "study", "--results", "report"]
    command += ["--set", *(f"{key}={value}" for key, value in settings.items())]
    assert main(command) == 0, capfd.readouterr().err
    rows = [line.split(",")[:2] for line in (here / "report" / "sweep.csv").read_text().splitlines()[1:]]
    skipped = {method for method in SHARES[path] if f"{method}: not run" in capfd.readouterr().out}
    for method in set(SHARES[path]) - skipped:
        found = {combination for name, combination in rows if name == method}
        each = study.method(method).recipe.each
        assert found == ({one} if each else set(study.modalities.combinations())), method
        assert list((here / "study" / method).rglob("test.done.json"))
    assert not skipped - {name for name in SHARES[path] if study.method(name).recipe.what == RECIPES["bn_refit"].what}
    assert sorted(each.name for each in here.iterdir()) == ["report", "study"], "nothing outside of --out and --results"
