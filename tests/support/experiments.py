"""The YAML files under ``experiments/``: what they are, how they are made small, the commands in their headers."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_mm.tasks.checkpoints import read_checkpoint
from tests.support.repository import REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"
FILES = sorted(EXPERIMENTS.glob("*/*.yaml"))
STUDIES = [path for path in FILES if path.name.startswith("study")]
TUNES = [path for path in FILES if path.name.startswith("tune")]
FITS = [path for path in FILES if path not in (*STUDIES, *TUNES)]
REFERENCE_SETS = ("mfnet", "nyudv2", "mcubes", "cmu_mosi", "cmu_mosei", "food101", "ntu_rgbd")
"""The data sets of arXiv 2310.03986."""
OWN_SETS = (
    *("scenes", "ombria", "utd_mhad", "utd_mhad_retrieval", "av_digits", "ms_lesions", "mosi", "ravdess", "easy_vqa"),
    *("brats", "iemocap"),
)
FAMILIES = (*OWN_SETS, *REFERENCE_SETS)
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false"]
CROP = [32, 64]
NETWORK = "--model.init_args.model.init_args"


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
    "scenes": {"data.dataset.init_args.size": 32, "data.dataset.init_args.test_length": 8},
    "ombria": {"data.dataset.init_args.size": 32},
    "ms_lesions": {"data.dataset.init_args.size": 48},
    "brats": {
        "data.dataset.init_args.size": "[16, 16, 8]",
        "data.dataset.init_args.crop": "[8, 8, 8]",
        "data.num_workers": 0,
        "model.init_args.model.init_args.widths": "[4, 8]",
    },
    "utd_mhad": {},
    "utd_mhad_retrieval": {},
    "av_digits": {"data.dataset.init_args.eval_pairs": 1, "data.dataset.init_args.train_length": 40},
    "mosi": {},
    "ravdess": {},
    "easy_vqa": {},
    "cmu_mosi": {"model.init_args.model.init_args.levels": 1},
    "cmu_mosei": {"model.init_args.model.init_args.levels": 1},
    "iemocap": {"model.init_args.model.init_args.levels": 1},
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


def stack_of(path: Path) -> tuple[Path, ...]:
    """``base.yaml`` stands alone; every other file of a folder is an overlay on it."""
    return (path,) if path.name == "base.yaml" else (path.with_name("base.yaml"), path)


def stacked(path: Path) -> list[str]:
    """The ``-c`` options of :func:`stack_of`."""
    return [part for file in stack_of(path) for part in ("-c", str(file))]


def last(stack: tuple[Path, ...], *keys: str) -> Any:
    """What the last file of a stack that has a setting gives it, else None."""
    found = None
    for path in stack:
        content: Any = yaml.safe_load(path.read_text())
        for key in keys:
            content = content.get(key, {})
        found = content or found
    return found


def header_of(path: Path) -> str:
    return "\n".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))


def header_commands(path: Path) -> list[list[str]]:
    """What stands behind ``lightning-mm`` in the indented lines of a header, continued lines joined."""
    lines = header_of(path).replace("\\\n", " ").splitlines()
    texts = [line.partition("lightning-mm ")[2] for line in lines if line.startswith("   ")]
    return [shlex.split(text) for text in texts if text]


def files_of(command: list[str]) -> tuple[Path, ...]:
    """The config files of a command."""
    return tuple(EXPERIMENTS.parent / value for word, value in pairwise(command) if word == "-c")


def tensors_of(path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, those of the optimizer too."""
    checkpoint = read_checkpoint(path)
    found = dict(checkpoint["state_dict"])
    for number, state in checkpoint["optimizer_states"][0]["state"].items():
        found |= {f"optimizer {number} {key}": torch.as_tensor(value) for key, value in state.items()}
    return found
