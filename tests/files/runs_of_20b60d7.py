"""Training runs, sweeps and a study by the command line of commit 20b60d7, for ``make_written_by_20b60d7.py``.

Everything runs in the current folder, from the configs in ``written_by_20b60d7/config``, which were written by hand.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from lightning_mm.cli import main
from lightning_mm.missing import IndependentMissing, save_table
from lightning_mm.modalities import Modalities

CONFIGS = Path(__file__).resolve().parent / "written_by_20b60d7" / "config"


STACKS = {
    "base": ["base.yaml"],
    "resumed": ["base.yaml"],
    "ssf": ["base.yaml", "ssf.yaml"],
    "ssf_resumed": ["base.yaml", "ssf.yaml"],
    "placed": ["base.yaml", "ssf.yaml", "placed.yaml"],
    "refitted": ["base.yaml", "refitted.yaml"],
    "from_table": ["base.yaml", "ssf.yaml", "from_table.yaml"],
}
"""Name of a run to its configs."""


def write_runs(out: Path) -> None:
    """What the command line writes: configs, checkpoints, metrics, sweeps, predictions, tables, means, a placement."""
    runs = Runs(out)
    save_table("missing.npz", IndependentMissing(0.4), Modalities(["rgb", "depth"]), 12, seed=1)
    runs.fit("base")
    runs.sweep("base")
    runs.sweep("base", "--split", "val")
    runs("predict", *runs.stack("base"), "--trainer.limit_predict_batches", "1")
    runs("mean_input", *runs.stack("base", checkpoint=False), "--out", "mean_input.safetensors")
    runs.fit("resumed", "--ckpt_path", "base/last.ckpt", "--trainer.max_epochs", "4")
    runs.fit("ssf")
    runs.sweep("ssf", "--bootstrap", "20")
    runs.fit("ssf_resumed", "--ckpt_path", "ssf/last.ckpt", "--trainer.max_epochs", "4")
    runs.fit("placed")
    runs.sweep("placed")
    runs.fit("refitted")
    runs.sweep("refitted")
    runs.fit("from_table")
    for task in ("segmentation", "classification", "sentiment"):
        runs.teacher(task)
    runs("table", "base/sweep", "ssf/sweep", "--out", "table")
    runs.keep()


class Runs:
    """Runs the command line in a temporary folder and keeps what is read again."""

    def __init__(self, out: Path) -> None:
        self.out = out
        shutil.copytree(CONFIGS, ".", dirs_exist_ok=True)

    def __call__(self, *args: str) -> None:
        print("lightning-mm", *args, flush=True)
        assert main(list(args)) == 0, args

    def stack(self, name: str, checkpoint: bool = True) -> list[str]:
        configs = [part for config in STACKS[name] for part in ("-c", config)]
        options = [*configs, "--trainer.default_root_dir", name]
        # without the logger, which would delete the metrics of the fit
        return [*options, "--ckpt_path", f"{name}/best.ckpt", "--trainer.logger", "false"] if checkpoint else options

    def fit(self, name: str, *more: str) -> None:
        self("fit", *self.stack(name, checkpoint=False), *more)

    def sweep(self, name: str, *more: str) -> None:
        bootstrap = () if "--bootstrap" in more else ("--bootstrap", "0")
        self("sweep", *self.stack(name), *bootstrap, *more)

    def teacher(self, task: str) -> None:
        """A base, with auxiliary losses where the task has some, and an adapter that learns from it."""
        base = f"teacher/{task}/base"
        self("fit", "-c", f"{task}.yaml", "--trainer.default_root_dir", base)
        self("fit", "-c", f"{task}.yaml", "-c", f"{task}_teacher.yaml",
             "--trainer.default_root_dir", f"teacher/{task}/adapted",
             "--model.init_args.base_ckpt", f"{base}/best.ckpt")  # fmt: skip

    def keep(self) -> None:
        """Copy to the repository what the test reads."""
        for path in sorted({path for pattern in KEPT for path in Path().glob(pattern)}):
            if path.parts[0] not in ("resumed", "ssf_resumed", "from_table") or path.suffix == ".csv":
                keep(path, self.out / path)


KEPT = (
    "missing.npz", "mean_input.safetensors", "**/metrics.csv", "**/sweep*/sweep.csv", "*/best.ckpt",
    "teacher/*/base/best.ckpt",
    *(f"{name}/{file}" for name in ("base", "ssf") for file in ("fit.yaml", "last.ckpt", "sweep/sweep*.*[!g]")),
    "teacher/*/adapted/fit.yaml", "base/predictions/*.npz", "placed/placement.*", "table/sweep.csv", "table/sweep.md",
)  # fmt: skip


def write_study(out: Path) -> None:
    """A finished study, without what ``compare`` does not read again to make its tables.

    Two of its networks are complete. Of the others only the tables are kept: ``compare`` checks that a checkpoint and a
    config exist, and the test makes empty files for them.
    """
    shutil.copytree(CONFIGS, ".", dirs_exist_ok=True)
    assert main(["compare", "-c", "study.yaml"]) == 0
    for pattern in (
        "study/**/*.done.json",
        "study/**/sweep*.csv",
        "study/**/sweep*.npz",
        "study/configs/*",
        "report/s*.*[!g]",
    ):
        for path in Path().glob(pattern):
            keep(path, out / path)
    for path in Path().glob("study/**/sweep.json"):
        _without_summary(path, out / path)
    report = json.loads((out / "report/sweep.json").read_text(encoding="utf-8"))  # the same, in half the bytes
    (out / "report/sweep.json").write_text(json.dumps(report) + "\n", encoding="utf-8")
    for folder in WHOLE:
        for path in ("cell.yaml", "best.ckpt"):
            keep(folder / path, out / folder / path)
    keep(WHOLE[0] / "mean_input.safetensors", out / WHOLE[0] / "mean_input.safetensors")
    keep(WHOLE[1] / "sweep" / "sweep.json", out / WHOLE[1] / "sweep" / "sweep.json")


WHOLE = (Path("study/base/seed0"), Path("study/adapted/lr=0.03/seed0"))


def _without_summary(path: Path, place: Path) -> None:
    """Copy a ``sweep.json`` without what is only for readers: the config and the figures that follow from the CSV."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if key not in ("config", "summary", "versions")}
    place.write_text(json.dumps(kept) + "\n", encoding="utf-8")


def keep(path: Path, place: Path) -> None:
    """Copy a file; a checkpoint gets a name that git takes, and relative paths."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".ckpt":
        checkpoint = torch.load(path, weights_only=True)
        torch.save(_relative(checkpoint, str(Path.cwd().resolve())), place.with_suffix(".checkpoint"))
    else:
        shutil.copyfile(path, place)


def _relative(value: Any, folder: str) -> Any:
    """The same with paths inside a folder as relative ones."""
    if isinstance(value, dict):
        changed = {_relative(key, folder): _relative(item, folder) for key, item in value.items()}
        return type(value)(changed)
    if isinstance(value, (list, tuple)):
        return type(value)(_relative(item, folder) for item in value)
    return value.replace(f"{folder}/", "").replace(folder, ".") if isinstance(value, str) else value
