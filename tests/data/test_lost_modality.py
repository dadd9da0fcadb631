"""Splits that lack a whole modality: placeholders of the right shape in every batch, training and sweep."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.cli import main
from lightning_mm.data import (
    CmuMosi,
    CropClips,
    Food101,
    MFNet,
    ModalityDropoutDataModule,
    Ombria,
    RandomScaleCrop,
    WarpSequences,
)
from lightning_mm.errors import LightningMMError
from tests.support.experiments import EXPERIMENTS, options
from tests.support.fake import cmu_mosi, food101, ombria
from tests.support.fake_data import FETCHED, SMALL, lose_modality, write_data
from tests.support.image_files import save

AUGMENTS: dict[str, Any] = {
    **dict.fromkeys(("mfnet", "nyudv2", "mcubes"), RandomScaleCrop((8, 10))),
    **dict.fromkeys(("cmu_mosi", "cmu_mosei", "iemocap"), WarpSequences()),
    "ntu_rgbd": CropClips(8),
    "food101": None,
    "brats": None,
}
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mfnet": ((3, 8, 10), (3, 12, 16)),
    "nyudv2": ((3, 8, 10), (3, 12, 16)),
    "mcubes": ((3, 8, 10), (3, 16, 20)),
    "cmu_mosi": ((5, 5), (5, 5)),
    "cmu_mosei": ((5, 74), (5, 74)),
    "iemocap": ((5, 74), (5, 74)),
    "food101": ((3, 64, 64), (3, 64, 64)),
    "ntu_rgbd": ((3, 4, 8, 8), (3, 4, 16, 16)),
    "brats": ((1, 12, 10, 8), (1, 12, 10, 8)),
}
"""Of the lost modality in an augmented training sample and in a test sample."""


def module(kind: Any, folder: Path, augment: Any = None, batch_size: int = 2, **settings: Any) -> Any:
    settings = {"root": str(folder), "allow_missing": True, **settings}
    names = list(kind("test", **settings)[0]["inputs"])
    return ModalityDropoutDataModule(
        lambda split: kind(split, **settings), names, batch_size=batch_size, augment=augment
    )


@pytest.mark.parametrize("family", FETCHED)
def test_every_batch_has_a_placeholder(tmp_path: Path, family: str) -> None:
    folder = write_data(family, tmp_path)
    lost = lose_modality(family, folder)
    data = module(FETCHED[family], folder, AUGMENTS[family], **SMALL.get(family, {}))
    column = list(data.modalities).index(lost)
    there = torch.arange(len(data.modalities)) != column
    for loader, shape in zip((data.train_dataloader(), data.test_dataloader()), SHAPES[family]):
        batches = list(loader)
        assert batches
        for batch in batches:
            size = len(batch["index"])
            assert torch.equal(batch["observed"], there.expand(size, -1))
            assert not batch["available"][:, column].any()
            assert batch["available"].any(1).all()
            assert batch["inputs"][lost].shape == (size, *shape)
            assert batch["inputs"][lost].dtype == torch.float32
            assert not batch["inputs"][lost].any()
    assert batch["available"][:, there].all(), "nothing is dropped in test"


def test_a_placeholder_is_as_large_as_the_sample_beside_it(tmp_path: Path) -> None:
    """Pictures as stored may differ in size; then a batch holds one."""
    folder = write_data("mfnet", tmp_path)
    lose_modality("mfnet", folder)
    save(folder / "rgb/00202N.jpg", np.zeros((7, 9, 3)))
    save(folder / "labels/00202N.png", np.zeros((7, 9)))
    shapes = [
        tuple(batch["inputs"]["thermal"].shape) for batch in module(MFNet, folder, batch_size=1).test_dataloader()
    ]
    assert shapes == [(1, 3, 12, 16), (1, 3, 7, 9), (1, 3, 12, 16)]


def test_one_split_may_lack_what_others_have(tmp_path: Path) -> None:
    content = cmu_mosi.contents(layout="mmsa", aligned=False)
    for name in ("text", "vision"):
        values = {**content, "test": {key: one for key, one in content["test"].items() if key != name}}
        folder = cmu_mosi.write(tmp_path / name, values, layout="mmsa", aligned=False)
        data = module(CmuMosi, folder, WarpSequences(), layout="mmsa", aligned=False)
        whole, partly = next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))
        assert whole["observed"].all()
        assert partly["observed"].tolist() == [[one != name for one in data.modalities]] * 2
        value, other = partly["inputs"][name], partly["inputs"]["audio" if name == "text" else "text"]
        assert value.keys() == whole["inputs"][name].keys()
        assert value["values"].shape[2] == whole["inputs"][name]["values"].shape[2]
        assert value["length"].tolist() == [other["length"][0]] * 2
        assert len(value["values"][0]) == other["length"][0]


def test_images_that_keep_their_shape(tmp_path: Path) -> None:
    food101.write(tmp_path)
    lose_modality("food101", tmp_path)
    batch = next(iter(module(Food101, tmp_path, size=64, longer=96, max_text_length=6).test_dataloader()))
    assert batch["inputs"]["image"]["pixel_values"].shape == (2, 3, 64, 64)
    assert batch["inputs"]["image"]["pixel_mask"].shape == (2, 64, 64)
    assert not batch["inputs"]["image"]["pixel_mask"].any()


def test_a_sensor_of_ombria(tmp_path: Path) -> None:
    ombria.write(tmp_path)
    for path in tmp_path.glob("OmbriaS2/*/AFTER/*.png"):
        path.unlink()
    for batch in module(Ombria, tmp_path, RandomScaleCrop((8, 10)), size=16).train_dataloader():
        assert batch["inputs"]["s2_after"].shape[1:] == (3, 8, 10)
        assert not batch["observed"][:, 3].any()


def test_the_way_out_for_other_data_sets() -> None:
    class Table(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"inputs": {"a": torch.ones(3), "b": None}, "target": index}

    class Offering(Table):
        def template(self, modality: str, sample: Any) -> Any:
            return torch.ones(4) if modality == "b" else None

    def batch(kind: type[Table]) -> Any:
        return next(iter(ModalityDropoutDataModule(lambda split: kind(), ["a", "b"], batch_size=2).test_dataloader()))

    with pytest.raises(
        LightningMMError, match=r"drop it from data.modalities, or give .* template\(modality, sample\)"
    ):
        batch(Table)
    assert batch(Offering)["inputs"]["b"].tolist() == [[0.0] * 4] * 2


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cmu_mosi", "mfnet"])
def test_networks_are_trained_and_swept_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    lost = lose_modality(family, write_data(family, tmp_path / "data"))
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    base = EXPERIMENTS / family / "base.yaml"
    command = ["-c", str(base), *options(base), "--data.dataset.init_args.allow_missing", "true"]
    command += ["--trainer.logger", "false"]
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.log_every_n_steps", "1"]
    assert main(["fit", *command, *few]) == 0
    checkpoint = f"outputs/{family}/base/best.ckpt"
    assert main(["sweep", *command, "--ckpt_path", checkpoint, "--out", "swept", "--bootstrap", "0"]) == 0
    with open("swept/sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {row["combination"]: int(row["n"]) for row in rows}
    size = len(FETCHED[family]("test", allow_missing=True))
    assert counts == {name: 0 if lost in name.split("+") else size for name in counts}
    assert sum(count > 0 for count in counts.values()) > 0
