"""Training data that lack modalities, and fixed tables at training and validation, through the real command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_mm.cli import main
from lightning_mm.data import ModalityDropoutDataModule, Scenes
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import SavedTable
from lightning_mm.modalities import Modalities
from tests.support.experiments import EXPERIMENTS, QUIET, prepare

NAMES = Modalities(list(Scenes.channels))
OVERLAY = EXPERIMENTS / "scenes" / "incomplete.yaml"
SIZES = {"train": 512, "val": 64}


def scenes(split: str, **settings: Any) -> Scenes:
    """As the overlay opens them, smaller."""
    return Scenes(split, **{"size": 16, "test_length": 24, "p_missing": 0.3, **settings})


def observed(dataset: Scenes) -> torch.Tensor:
    """Read off the samples, ``Bool[N, M]``."""
    samples = [dataset[index]["inputs"] for index in range(len(dataset))]
    return torch.tensor([[sample[name] is not None for name in NAMES] for sample in samples])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the tables of the overlay's header."""
    monkeypatch.chdir(tmp_path)
    prepare(OVERLAY)
    return tmp_path


def test_some_sensors_have_failed_and_the_scenes_stay() -> None:
    broken, whole = scenes("train", train_length=200), scenes("train", p_missing=0.0)
    there = observed(broken)
    assert there.any(1).all(), "at least one has worked"
    # p_missing = 0.3 given that not all three fail
    assert (~there).float().mean().item() == pytest.approx((0.3 - 0.3**3) / (1 - 0.3**3), abs=0.05)
    for index in (0, 7):
        for name, value in broken[index]["inputs"].items():
            assert value is None or torch.equal(value, whole[index]["inputs"][name])
        assert torch.equal(broken[index]["target"], whole[index]["target"])
    assert torch.equal(there[:60], observed(scenes("train", train_length=60)))
    assert not torch.equal(there[:24], observed(scenes("test")))
    assert whole[0]["inputs"].keys() == Scenes.channels.keys()
    for p_missing in (-0.1, 1.0):
        with pytest.raises(LightningMMError, match="Scenes: p_missing must be at least 0 and below 1"):
            scenes("train", p_missing=p_missing)


def test_batches_show_what_table_and_sensors_leave(here: Path) -> None:
    """Fixed tables: the same in every epoch and with every seed, and nothing that was not observed."""
    config = yaml.safe_load(OVERLAY.read_text())["data"]
    tables = {split: SavedTable(config[f"{split}_policy"]["init_args"]["path"]) for split in SIZES}
    drawn = {split: tables[split].draw(NAMES, range(size), epoch=0, seed=0) for split, size in SIZES.items()}
    assert not torch.equal(drawn["train"][:64], drawn["val"])
    for seed, epoch in ((0, 0), (5, 3)):
        data = ModalityDropoutDataModule(
            scenes, list(NAMES), train_policy=tables["train"], val_policy=tables["val"], batch_size=64, seed=seed
        )
        loader: Any = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for split, batches in (("train", loader), ("val", data.val_dataloader())):
            there = observed(scenes(split))
            allowed = there & drawn[split]
            expected = torch.where(allowed.any(1, keepdim=True), allowed, there)
            for batch in batches:
                assert torch.equal(batch["observed"], there[batch["index"]])
                assert torch.equal(batch["available"], expected[batch["index"]])
            assert (~there & drawn[split]).any(), "a table knows nothing of sensors"


@pytest.mark.slow
def test_incomplete_data_are_trained_adapted_and_swept(here: Path) -> None:
    base, ssf = EXPERIMENTS / "scenes" / "base.yaml", EXPERIMENTS / "scenes" / "ssf.yaml"
    small = ["--data.dataset.init_args.size", "16", "--data.dataset.init_args.test_length", "24", *QUIET]
    small += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--trainer.log_every_n_steps", "1"]
    root = here / "outputs/scenes/incomplete"
    plain = ["-c", str(base), "-c", str(OVERLAY), *small, "--trainer.default_root_dir", str(root / "base")]
    adapted = ["-c", str(base), "-c", str(ssf), "-c", str(OVERLAY), *small]
    adapted += ["--trainer.default_root_dir", str(root / "ssf")]
    adapted += ["--model.init_args.base_ckpt", str(root / "base/best.ckpt")]
    assert main(["fit", *plain]) == 0
    assert main(["fit", *adapted]) == 0
    assert main(["sweep", *adapted, "--ckpt_path", str(root / "ssf/best.ckpt"), "--bootstrap", "0"]) == 0

    there = observed(scenes("test"))
    expected = {name: int(there[:, NAMES.mask(name)].all(1).sum()) for name in NAMES.combinations()}
    assert 0 < expected["rgb+depth+thermal"] < min(expected[name] for name in NAMES) < 24
    with open(root / "ssf/sweep/sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"zero_fill", "adapted"}
    for row in rows:
        assert int(row["n"]) == expected[row["combination"]], row
    with np.load(root / "ssf/sweep/sweep_samples.npz") as samples:
        assert np.array_equal(samples["observed"][samples["index"].argsort()], there.numpy())
    saved = json.dumps(json.loads((root / "ssf/sweep/sweep.json").read_text()))
    for split in SIZES:
        assert f"outputs/scenes/tables/{split}.npz" in saved, "the table tells under what it was trained"
    assert "p_missing" in saved
