"""Every YAML under ``experiments/`` through the real command line, on a batch or two."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from lightning_mm.cli import main
from lightning_mm.compare import read_study
from lightning_mm.compare.recipes import BASE, RECIPES
from tests.support.fake_data import write_data
from tests.support.repository import REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"
FILES = sorted(EXPERIMENTS.glob("*/*.yaml"))
STUDIES = [path for path in FILES if path.name.startswith("study")]
FITS = [path for path in FILES if path not in STUDIES]
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
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false"]
CROP = [32, 64]


def small_augmentations(family: str) -> str:
    """The augmentations of a family, cropping to ``CROP``, and all of them often enough to act on a few samples."""
    content = yaml.safe_load((EXPERIMENTS / family / "base.yaml").read_text())
    augmentations = content["data"]["augment"]["init_args"]["augmentations"]
    for one in augmentations:
        settings = one.get("init_args", {})
        settings |= {"size": CROP} if "size" in settings else {}
        settings |= {"p": 0.5} if "modalities" in settings else {}
    return json.dumps(augmentations)


def _pictures(family: str) -> dict[str, object]:
    augmentations = {"data.augment.init_args.augmentations": small_augmentations(family)}
    evaluated = {"data.dataset.init_args.eval_crop": [12, 16]} if family == "mcubes" else {}
    return {"data.dataset.init_args.size": [32, 64], "data.batch_size": 2, **augmentations, **evaluated}


def _cmnext(family: str) -> dict[str, object]:
    return {**_pictures(family), "model.init_args.model.init_args.variant": "B0"}


def _segformer(family: str) -> dict[str, object]:
    network = "model.init_args.model.init_args"
    return {**_pictures(family), f"{network}.encoder": "mit_b0", f"{network}.decoder_channels": [16]}


TINY_STREAM = "{class_path: tests.support.cli_network.TinyStream}"
SMALL: dict[str, dict[str, object]] = {
    "scenes": {"data.dataset.init_args.size": 32},
    "ombria": {"data.dataset.init_args.size": 32},
    "ms_lesions": {"data.dataset.init_args.size": 32},
    "utd_mhad": {},
    "av_digits": {"data.dataset.init_args.eval_pairs": 1, "data.dataset.init_args.train_length": 40},
    "mosi": {},
    "cmu_mosi": {"model.init_args.model.init_args.levels": 1},
    "cmu_mosei": {"model.init_args.model.init_args.levels": 1},
    "mfnet": _cmnext("mfnet"),
    "nyudv2": _cmnext("nyudv2"),
    "mcubes": _cmnext("mcubes"),
    "ntu_rgbd": {
        "data.dataset.init_args.frames": 4,
        "data.dataset.init_args.size": 16,
        "data.dataset.init_args.resize": "[24, 18]",
        "data.num_workers": 0,
        **{f"model.init_args.model.init_args.streams.{name}": TINY_STREAM for name in ("rgb", "depth")},
    },
    "food101": {
        "data.dataset.init_args.size": 32,
        "data.dataset.init_args.max_text_length": 8,
        "model.init_args.model.init_args.image_size": 64,
        "model.init_args.model.init_args.hidden_size": 24,
        "model.init_args.model.init_args.num_hidden_layers": 6,
    },
}
"""Settings that shrink the data or the network of a family further."""
SMALL_FILES = {
    "mfnet/dedicated.yaml": _segformer("mfnet"),
    "nyudv2/dedicated.yaml": _segformer("nyudv2"),
    "mcubes/dedicated_one.yaml": _segformer("mcubes"),
}
"""The same for an overlay with another network than its base."""


def name_of(path: Path) -> str:
    return str(path.relative_to(EXPERIMENTS))


def small(family: str, file: str = "") -> dict[str, object]:
    return {"data.batch_size": 4, "data.eval_batch_size": 32, **SMALL_FILES.get(file, SMALL[family])}


def options(path: Path) -> list[str]:
    """What makes a run of a file small and quiet."""
    smaller = small(path.parent.name, name_of(path))
    modalities = yaml.safe_load(path.read_text()).get("data", {}).get("modalities", ["rgb", "depth"])
    for name in {"rgb", "depth"} - set(modalities):
        smaller.pop(f"model.init_args.model.init_args.streams.{name}", None)  # of a dedicated network
    return [*QUIET, *(part for key, value in smaller.items() for part in (f"--{key}", str(value)))]


def prepare(path: Path) -> None:
    """Run what the header has run before, here in this process: ``#   python -c "..."``."""
    for line in path.read_text().splitlines():
        if line.startswith("#   python -c "):
            exec(shlex.split(line[1:])[2], {})


def stacked(path: Path) -> list[str]:
    """``base.yaml`` stands alone; every other file of a folder is an overlay on it."""
    files = [path] if path.name == "base.yaml" else [path.with_name("base.yaml"), path]
    return [part for file in files for part in ("-c", str(file))]


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
