"""IEMOCAP in the files of MulT: emotions, their shapes on disk, and mistakes in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import Iemocap, ModalityDropoutDataModule
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import cmu_mosi


@pytest.mark.parametrize("aligned", [True, False])
def test_samples_are_what_the_file_holds(tmp_path: Path, aligned: bool) -> None:
    content = cmu_mosi.contents(Iemocap, aligned=aligned)
    cmu_mosi.write(tmp_path, content, Iemocap, aligned=aligned)
    for split, stored in (("train", "train"), ("val", "valid"), ("test", "test")):
        data, part = Iemocap(split, str(tmp_path), aligned=aligned), content[stored]
        assert len(data) == cmu_mosi.COUNTS[stored]
        assert data.ids[1] == "1"
        for index in (0, len(data) - 1):
            sample = data[index]
            assert torch.equal(sample["target"], torch.from_numpy(part["labels"][index, :, 1]).long())
            for name, width in (("text", 300), ("audio", 74), ("vision", 35)):
                values = torch.from_numpy(part[name][index]).float()
                assert sample["inputs"][name].shape[1] == width
                assert torch.equal(sample["inputs"][name], values.masked_fill(values == -torch.inf, 0.0))
    sample["target"][:] = 7
    assert data[len(data) - 1]["target"].max() <= 1, "a sample is a copy"


def test_labels_of_one_number_each_are_read_too(tmp_path: Path) -> None:
    content = cmu_mosi.contents(Iemocap)
    plain = {split: {**part, "labels": part["labels"].argmax(2)} for split, part in content.items()}
    one_hot, numbers = cmu_mosi.write(tmp_path / "a", content, Iemocap), cmu_mosi.write(tmp_path / "b", plain, Iemocap)
    for index in range(12):
        first, second = (Iemocap("train", str(root))[index]["target"] for root in (one_hot, numbers))
        assert torch.equal(first, second)
    data = ModalityDropoutDataModule(lambda split: Iemocap(split, str(numbers)), ["text", "audio"], batch_size=5)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["target"].shape == (5, 4)
    assert batch["target"].dtype == torch.int64


def changed(labels: Any) -> dict[str, Any]:
    return {split: {**part, "labels": labels(part["labels"])} for split, part in cmu_mosi.contents(Iemocap).items()}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda one: one[:, :3], r"labels: expected shape \(utterances, 4, 2\), .* got \(12, 3, 2\)"),
        (lambda one: one[:, :, 1].sum(1), r"got \(12,\)"),
        (lambda one: one + 1, "expected 0 and 1, of absent and present one each, got"),
        (lambda one: np.ones_like(one), "of absent and present one each"),
        (lambda one: one * np.nan, "expected 0 and 1"),
    ],
)
def test_wrong_labels_are_told(tmp_path: Path, labels: Any, message: str) -> None:
    cmu_mosi.write(tmp_path, changed(labels), Iemocap)
    with pytest.raises(LightningMMError, match=message):
        Iemocap("train", str(tmp_path))


def test_wrong_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"lacks iemocap_data_noalign\.pkl"):
        Iemocap("train", str(tmp_path), aligned=False)
    content = cmu_mosi.contents(Iemocap)
    for part in content.values():
        part["audio"] = part["audio"][:, :, :5]
    cmu_mosi.write(tmp_path, content, Iemocap)
    with pytest.raises(LightningMMError, match=r"expected audio of shape \(12, steps, 74\).*; take the file of this"):
        Iemocap("train", str(tmp_path))
    (tmp_path / "iemocap_data.pkl").write_bytes(pickle.dumps({"train": Path("x")}))
    with pytest.raises(LightningMMError, match="pathlib"):
        Iemocap("train", str(tmp_path))
