"""Resume through the real command line: two epochs equal one epoch and another one after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_mm.cli import main
from lightning_mm.tasks.checkpoints import ADAPTER_KEY, read_checkpoint
from tests.support.fake_data import write_data
from tests.support.repository import REPOSITORY

MOSI = REPOSITORY / "experiments" / "mosi"
FEW = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
FEW += ["--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
FEW += ["--trainer.enable_model_summary", "false", "--trainer.log_every_n_steps", "1", "--data.batch_size", "8"]
pytestmark = [
    # a run is resumed from the checkpoint of another one's folder on purpose
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


def configs(names: list[str], folder: Path) -> list[str]:
    """Config files of the experiment, and one with its callbacks but a checkpoint after every epoch."""
    callbacks: list[Any] = yaml.safe_load((MOSI / names[-1]).read_text())["trainer"]["callbacks"]
    for one in callbacks:
        if one["class_path"].endswith("ModelCheckpoint"):
            one["init_args"] = {"dirpath": "${trainer.default_root_dir}", "filename": "{epoch}", "save_top_k": -1}
    overlay = folder / "every_epoch.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return [part for path in [*(MOSI / name for name in names), overlay] for part in ("-c", str(path))]


def states(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, those of the optimizer too."""
    checkpoint = read_checkpoint(path)
    found = dict(checkpoint["state_dict"])
    for number, state in checkpoint["optimizer_states"][0]["state"].items():
        found |= {f"optimizer {number} {key}": torch.as_tensor(value) for key, value in state.items()}
    return found


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data("mosi", tmp_path / "data")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    adapter = ["--model.init_args.base_ckpt", "base/whole/epoch=1.ckpt"]
    for name, files, more in (("base", ["base.yaml"], []), ("ssf", ["base.yaml", "ssf.yaml"], adapter)):
        command = ["fit", *configs(files, tmp_path), *FEW, *more, "--trainer.default_root_dir"]
        assert main([*command, f"{name}/whole"]) == 0
        torch.manual_seed(77)  # another process has another random state
        assert main([*command, f"{name}/resumed", "--ckpt_path", f"{name}/whole/epoch=0.ckpt"]) == 0
        assert not Path(f"{name}/resumed/epoch=0.ckpt").exists()
        last = [read_checkpoint(f"{name}/{run}/epoch=1.ckpt") for run in ("whole", "resumed")]
        assert [(one["epoch"], one["global_step"], ADAPTER_KEY in one) for one in last] == [(1, 4, name == "ssf")] * 2
        whole, resumed = (states(Path(name) / run / "epoch=1.ckpt") for run in ("whole", "resumed"))
        assert list(whole) == list(resumed)
        assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
        before = states(Path(name) / "whole" / "epoch=0.ckpt")
        assert [key for key in whole if not torch.equal(whole[key], before[key])], "the second epoch trains"
