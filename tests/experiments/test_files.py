"""Every YAML under ``experiments/``: its header, and one batch of a run through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lightning_mm.cli import main
from lightning_mm.compare import read_study
from lightning_mm.compare.tuning import read_tune
from tests.support.experiments import (
    CROP,
    EXPERIMENTS,
    FAMILIES,
    FILES,
    FITS,
    NETWORK,
    STUDIES,
    TUNES,
    files_of,
    header_commands,
    header_of,
    last,
    name_of,
    options,
    prepare,
    small_augmentations,
    stack_of,
    stacked,
)
from tests.support.fake_data import write_data

LONGEST = 40
WHOLE_CMNEXT = [
    path
    for path in FITS
    if path.parent.name in ("mfnet", "nyudv2", "mcubes") and not last((path,), "model", "init_args", "base_ckpt")
]
"""Networks of images that are trained whole."""
STUDIED = sorted((EXPERIMENTS / "results").glob("*/study.json"))


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
    verb = "compare" if path in STUDIES else "tune" if path in TUNES else "fit"
    command = f"lightning-mm {verb} -c experiments/{path.parent.name}/"
    assert any(command in line for line in header)
    assert path not in STUDIES or any(name_of(path) in line for line in header), "a study's command is its own"


def test_every_file_is_in_a_command_of_its_own_header() -> None:
    fits = {path: [files_of(one) for one in header_commands(path) if one[0] == "fit"] for path in FITS}
    assert [name_of(path) for path in FITS if not any(stack[-1] == path for stack in fits[path])] in (
        [],
        ["food101/prompts.yaml"],  # shown with a table of missing modalities behind it
    )
    assert all(stack[0] == path.with_name("base.yaml") for path, stacks in fits.items() for stack in stacks)


def test_an_overlay_reads_the_checkpoint_that_its_base_writes() -> None:
    for path in FITS:
        base_ckpt = last((path,), "model", "init_args", "base_ckpt")
        if base_ckpt:
            base = (path.with_name("base.yaml"),)
            checkpoint = last(base, "trainer", "callbacks")[-1]["init_args"]
            folder = checkpoint["dirpath"].replace(
                "${trainer.default_root_dir}", last(base, "trainer", "default_root_dir")
            )
            assert base_ckpt == f"{folder}/{checkpoint['filename']}.ckpt", name_of(path)


@pytest.mark.parametrize("path", WHOLE_CMNEXT, ids=name_of)
def test_headers_of_image_networks_start_from_imagenet(path: Path) -> None:
    stack = (path.with_name("base.yaml"), path)
    encoder = last(stack, "model", "init_args", "model", "init_args", "encoder")
    variant = last(stack, "model", "init_args", "model", "init_args", "variant")
    expected = [f"{NETWORK}.encoder_weights", "imagenet"]
    if encoder is None:
        expected = [f"{NETWORK}.mit_weights", f"weights/mit_{variant.lower()}.pth"]
    (command,) = [command for command in header_commands(path) if command[0] == "fit"]
    assert command[-2:] == expected
    assert encoder in (None, f"mit_{variant.lower()}"), "the size of the base"


@pytest.mark.parametrize("name", ["base", "dedicated", "dropout"])
def test_headers_of_whole_vilts_start_from_the_same_weights(name: str) -> None:
    (fit,) = [command for command in header_commands(EXPERIMENTS / f"food101/{name}.yaml") if command[0] == "fit"]
    assert fit[-2:] == [f"{NETWORK}.pretrained", "weights/vilt_200k_mlm_itm.ckpt"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("cmu_mosi/ssf.yaml", "MoMKE 77.05 / 76.46, TMDC 77.64 / 77.35"),
        ("cmu_mosi/base.yaml", "compare with our acc2_non0 and f1_non0_swapped"),
        ("cmu_mosei/base.yaml", "compare with our acc2_non0 and f1_non0_swapped"),
        ("ntu_rgbd/base.yaml", "UMDR's prediction is the mean of four"),
        ("ntu_rgbd/ssf.yaml", "the recipe (AdamW 3e-3, cosine, 10 epochs) is ours"),
    ],
)
def test_headers_say_what_a_figure_stands_beside(file: str, said: str) -> None:
    assert said in header_of(EXPERIMENTS / file)


@pytest.mark.parametrize("family", ["mfnet", "nyudv2", "mcubes"])
def test_small_runs_keep_the_augmentations(family: str) -> None:
    small = yaml.safe_load(small_augmentations(family))
    own = last((EXPERIMENTS / family / "base.yaml",), "data", "augment", "init_args", "augmentations")
    assert [one["class_path"] for one in small] == [one["class_path"] for one in own]
    assert [one["init_args"]["size"] for one in small if one["class_path"].endswith("RandomScaleCrop")] == [CROP]
    assert any(one["class_path"].endswith("GaussianBlur") for one in small)


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_studies_are_read_and_what_they_name_is_there(path: Path) -> None:
    study = read_study(path)
    content = yaml.safe_load(path.read_text())
    assert set(content["methods"]) <= {method.name for method in study.methods}
    files = [*study.configs, *(config for method in study.methods for config in method.configs)]
    assert [file for file in files if not file.is_file()] == []
    assert path.with_name("base.yaml") in study.configs


@pytest.mark.parametrize("path", TUNES, ids=name_of)
def test_searches_are_read(path: Path) -> None:
    tune = read_tune(path)
    assert tune.configs[0] == path.with_name("base.yaml")
    assert len(tune.trials()) == tune.count


@pytest.mark.parametrize("path", STUDIED, ids=lambda path: path.parent.name)
def test_the_adapter_of_a_set_has_the_rate_that_its_study_chose(path: Path) -> None:
    ssf = EXPERIMENTS / path.parent.name / "ssf.yaml"
    if not ssf.is_file():
        pytest.skip("a variant of another study")
    chosen = json.loads(path.read_text())["chosen"]
    chosen = chosen["adapted"]["value"]
    assert yaml.safe_load(ssf.read_text())["model"]["init_args"]["optimizer"]["init_args"]["lr"] == chosen


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=name_of(path), marks=[] if path.name == "base.yaml" else [pytest.mark.slow])
        for path in FITS
    ],
)
def test_one_batch(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed and instantiated, then one batch of training and one of validation from random weights."""
    write_data(path.parent.name, tmp_path / "data")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    prepare(path)
    start = ["--model.init_args.base_ckpt", "null"] if last(stack_of(path), "model", "init_args", "base_ckpt") else []
    assert main(["fit", *stacked(path), *options(path), *start, "--trainer.fast_dev_run", "1"]) == 0
