"""Every YAML under ``experiments/`` through the real command line, on a batch or two, and the commands of the demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lightning_mm.cli import main
from lightning_mm.cli.demo import CHANNELS, demo_commands, experiments_folder
from lightning_mm.compare import read_study
from lightning_mm.compare.recipes import BASE, RECIPES
from lightning_mm.errors import DataNotFoundError
from tests.support.experiments import EXPERIMENTS, FILES, FITS, STUDIES, name_of, options, prepare, small, stacked
from tests.support.fake_data import write_data

FAMILIES = (
    "scenes",
    "ombria",
    "utd_mhad",
    "av_digits",
    "ms_lesions",
    "mosi",
    "cmu_mosi",
    "cmu_mosei",
    "mfnet",
    "nyudv2",
    "mcubes",
    "ntu_rgbd",
    "food101",
)
LONGEST = 40


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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, since the folders in the files are relative, with ``LIGHTNING_MM_DATA`` beside."""
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_there_are_experiments() -> None:
    assert {path.parent.name for path in FILES} == set(FAMILIES)
    for family in FAMILIES:
        assert {f"{family}/base.yaml", f"{family}/ssf.yaml"} <= {name_of(path) for path in FITS}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_headed_by_what_they_show(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST
    header = [line for line in lines if line.startswith("#")]
    assert lines[: len(header)] == header, "the header stands first"
    command = f"lightning-mm {'compare' if path in STUDIES else 'fit'} -c experiments/{path.parent.name}/"
    assert any(command in line for line in header)
    assert path not in STUDIES or any(name_of(path) in line for line in header), "a study's command is its own"


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_studies_are_read_and_what_they_name_is_there(path: Path) -> None:
    study = read_study(path)
    content = yaml.safe_load(path.read_text())
    assert set(content["methods"]) <= {method.name for method in study.methods}
    files = [*study.configs, *(config for method in study.methods for config in method.configs)]
    assert [file for file in files if not file.is_file()] == []
    assert path.with_name("base.yaml") in study.configs


STUDIED = sorted((EXPERIMENTS / "results").glob("*/study.json"))


@pytest.mark.parametrize("path", STUDIED, ids=lambda path: path.parent.name)
def test_the_adapter_of_a_set_has_the_rate_that_its_study_chose(path: Path) -> None:
    ssf = EXPERIMENTS / path.parent.name / "ssf.yaml"
    if not ssf.is_file():
        pytest.skip("a variant of another study")
    chosen = json.loads(path.read_text())["chosen"]
    chosen = chosen["adapted"]["value"]
    assert yaml.safe_load(ssf.read_text())["model"]["init_args"]["optimizer"]["init_args"]["lr"] == chosen


@pytest.mark.parametrize("path", FITS, ids=name_of)
def test_runs(path: Path, here: Path) -> None:
    family = path.parent.name
    write_data(family, here.parent / "data")
    prepare(path)
    overlay = yaml.safe_load(path.read_text())
    settings = options(path)
    base_ckpt = overlay.get("model", {}).get("init_args", {}).get("base_ckpt")
    if base_ckpt:
        # What the overlay builds on: a base that was trained for two steps with the file's own settings.
        few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
        few += ["--trainer.log_every_n_steps", "1", "--trainer.logger", "false"]
        base = path.with_name("base.yaml")
        assert main(["fit", *stacked(base), *options(base), *few]) == 0
        assert Path(base_ckpt).is_file(), "the base writes its checkpoint where the overlay reads it"
    assert main(["fit", *stacked(path), *settings, "--trainer.fast_dev_run", "2"]) == 0


def test_shares_of_the_studies() -> None:
    named = {one.name for path in STUDIES for one in read_study(path).methods}
    assert {method for methods in SHARES.values() for method in methods} == named - {BASE}
    assert {path.parent for path in SHARES} == {path.parent for path in STUDIES}


@pytest.mark.slow
@pytest.mark.parametrize("path", SHARES, ids=name_of)
def test_studies_run(path: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every method of the studies once, over all of them, with one incomplete combination."""
    family, study = path.parent.name, read_study(path)
    write_data(family, here.parent / "data")
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


def test_the_demo_is_made_of_commands_that_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = demo_commands(tmp_path, experiments_folder())
    verbs = [command[0] for _, command in commands]
    assert verbs == ["fit"] * (2 + len(CHANNELS)) + ["sweep"] * (1 + len(CHANNELS)) + ["table"]
    for _, command in commands[2:3]:
        assert main([*command, "--print_config"]) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        channels = config["model"]["init_args"]["model"]["init_args"]["channels"]
        assert list(channels) == config["data"]["modalities"]
    assert list(tmp_path.iterdir()) == []


def test_the_demo_says_where_it_sought_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lightning_mm.cli.demo.__file__", str(tmp_path / "site" / "lightning_mm" / "cli" / "demo.py"))
    with pytest.raises(DataNotFoundError, match="_experiments/scenes"):
        experiments_folder()


@pytest.mark.slow
def test_the_demo_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--fast", "--out", "here"]) == 0
    out = capsys.readouterr().out
    assert "The report lies in here/report" in out
    lines = Path("here/report/sweep.csv").read_text().splitlines()
    figures = {tuple(line.split(",")[:2]) for line in lines[1:]}
    combinations = ["rgb", "depth", "thermal", "rgb+depth", "rgb+thermal", "depth+thermal", "rgb+depth+thermal"]
    expected = {(method, one) for method in ("zero_fill", "adapted") for one in combinations}
    assert figures == expected | {("dedicated", name) for name in CHANNELS}
    assert Path("here/report/sweep.png").stat().st_size > 0
