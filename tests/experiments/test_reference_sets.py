"""The data sets of arXiv 2310.03986 through the real command line: every stack of files fits, resumes and sweeps."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_mm.cli import main
from tests.support.experiments import CROP, EXPERIMENTS, FITS, name_of, options, prepare, small_augmentations
from tests.support.fake_data import write_data
from tests.training.test_cli_resume import states

FAMILIES = ("mfnet", "nyudv2", "mcubes", "cmu_mosi", "cmu_mosei", "food101", "ntu_rgbd")
FEW = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
FEW += ["--trainer.logger", "false", "--trainer.log_every_n_steps", "1"]
FILES = [path for path in FITS if path.parent.name in FAMILIES]
NETWORK = "--model.init_args.model.init_args"
Stack = tuple[Path, ...]


def commands(path: Path) -> list[list[str]]:
    """The commands in the header of a file, word by word."""
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [
        shlex.split(line) for line in joined if line.partition("lightning-mm ")[0] in ("", "LIGHTNING_MM_DATA=... ")
    ]


def fits(path: Path) -> list[list[str]]:
    return [command for command in commands(path) if command[command.index("lightning-mm") + 1] == "fit"]


def files_of(command: list[str]) -> Stack:
    return tuple(EXPERIMENTS.parent / value for word, value in pairwise(command) if word == "-c")


def name_of_stack(stack: Stack) -> str:
    return f"{stack[0].parent.name}/{'+'.join(path.stem for path in stack[1:]) or 'base'}"


STACKS = list(dict.fromkeys(files_of(command) for path in FILES for command in fits(path)))


def last(stack: Stack, *keys: str) -> Any:
    """What the last file of a stack that has a setting gives it, else None."""
    found = None
    for path in stack:
        content: Any = yaml.safe_load(path.read_text())
        for key in keys:
            content = content.get(key, {})
        found = content or found
    return found


def every_epoch(stack: Stack, folder: Path) -> list[str]:
    """The files of a run, and one with its callbacks but a checkpoint after every epoch."""
    callbacks: list[Any] = last(stack, "trainer", "callbacks")
    for one in callbacks:
        if one["class_path"].endswith("ModelCheckpoint"):
            one["init_args"] = {"dirpath": "${trainer.default_root_dir}", "filename": "{epoch}", "save_top_k": -1}
    overlay = folder / "every_epoch.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return [part for path in (*stack, overlay) for part in ("-c", str(path))]


def few_combinations(stack: Stack) -> list[str]:
    """The first modality alone, and all of them."""
    names = last(stack, "data", "modalities")
    return list(dict.fromkeys([names[0], "+".join(names)]))


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the generated files of the family beside."""
    write_data(request.node.callspec.params["stack"][0].parent.name, tmp_path / "data")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_every_file_is_in_a_command_of_its_own_header() -> None:
    assert {path.parent.name for path in FILES} == set(FAMILIES)
    assert [name_of(path) for path in FILES if not any(files_of(one)[-1] == path for one in fits(path))] in (
        [],
        ["food101/prompts.yaml"],  # shown with a table of missing modalities behind it
    )
    assert {path for stack in STACKS for path in stack} == set(FILES)
    assert all(stack[0].name == "base.yaml" for stack in STACKS)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("cmu_mosi/ssf.yaml", "MoMKE 77.05 / 76.46, TMDC 77.64 / 77.35"),
        ("cmu_mosi/base.yaml", "to stand beside our acc2_non0 and f1_non0_swapped"),
        ("cmu_mosei/base.yaml", "to stand beside our acc2_non0 and f1_non0_swapped"),
        ("ntu_rgbd/base.yaml", "UMDR's prediction is the mean of four"),
        ("ntu_rgbd/ssf.yaml", "the recipe (AdamW 3e-3, cosine, 10 epochs) is ours"),
    ],
)
def test_headers_say_what_a_figure_stands_beside(file: str, said: str) -> None:
    lines = (EXPERIMENTS / file).read_text().splitlines()
    assert said in "\n".join(line for line in lines if line.startswith("#"))


@pytest.mark.parametrize("family", ["mfnet", "nyudv2", "mcubes"])
def test_small_runs_keep_the_augmentations(family: str) -> None:
    small = yaml.safe_load(small_augmentations(family))
    own = last((EXPERIMENTS / family / "base.yaml",), "data", "augment", "init_args", "augmentations")
    assert [one["class_path"] for one in small] == [one["class_path"] for one in own]
    assert [one["init_args"]["size"] for one in small if one["class_path"].endswith("RandomScaleCrop")] == [CROP]
    assert any(one["class_path"].endswith("GaussianBlur") for one in small)


@pytest.mark.slow
# a run is resumed from the checkpoint of another one's folder on purpose
@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
@pytest.mark.parametrize("stack", STACKS, ids=name_of_stack)
def test_fits_resumes_and_sweeps(stack: Stack, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in stack:
        prepare(path)
    more = []
    if last(stack, "model", "init_args", "base_ckpt"):
        base = ["fit", *every_epoch(stack[:1], here), *options(stack[0]), *FEW, "--trainer.max_epochs", "1"]
        assert main([*base, "--trainer.default_root_dir", "base"]) == 0
        more = ["--model.init_args.base_ckpt", "base/epoch=0.ckpt"]
    command = ["fit", *every_epoch(stack, here), *options(stack[-1]), *FEW, *more, "--trainer.default_root_dir"]
    assert main([*command, "whole"]) == 0
    torch.manual_seed(77)  # another process has another random state
    assert main([*command, "resumed", "--ckpt_path", "whole/epoch=0.ckpt"]) == 0
    assert not Path("resumed/epoch=0.ckpt").exists()
    whole, resumed, before = (
        states(Path(one)) for one in ("whole/epoch=1.ckpt", "resumed/epoch=1.ckpt", "whole/epoch=0.ckpt")
    )
    assert list(whole) == list(resumed)
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    assert [key for key in whole if not torch.equal(whole[key], before[key])], "the second epoch trains"
    sweep = ["sweep", *(part for path in stack for part in ("-c", str(path))), *options(stack[-1]), *more]
    sweep += ["--combinations", str(few_combinations(stack)), "--bootstrap", "0"]
    assert main([*sweep, "--ckpt_path", "resumed/epoch=1.ckpt", "--trainer.fast_dev_run", "1"]) == 0
    assert "mean" in capfd.readouterr().out
