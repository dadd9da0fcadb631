"""MFNet on files generated in its two true layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mm.data import MFNet
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import mfnet as fake
from tests.support.image_files import save


def _decoded(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32) / 255)


def test_values_of_the_layout_with_two_folders(tmp_path: Path) -> None:
    fake.write(tmp_path)
    dataset = MFNet("test", root=str(tmp_path))
    assert len(dataset) == 3
    sample = dataset[1]
    assert {name: tuple(value.shape) for name, value in sample["inputs"].items()} == {
        "rgb": (3, 12, 16),
        "thermal": (3, 12, 16),
    }
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    rgb = _decoded(tmp_path / "rgb/00202N.jpg").permute(2, 0, 1)
    assert torch.allclose(sample["inputs"]["rgb"] * std + mean, rgb, atol=1e-6)
    thermal = _decoded(tmp_path / "ther/00202N.jpg")
    assert all(torch.equal(channel, thermal) for channel in sample["inputs"]["thermal"])
    labels = np.asarray(Image.open(tmp_path / "labels/00202N.png"))
    assert sample["target"].dtype == torch.int64
    assert torch.equal(sample["target"], torch.from_numpy(labels.astype(np.int64)))


def test_four_channels_in_one_file(tmp_path: Path) -> None:
    fake.write(tmp_path, stacked=True, val=True)
    sample = MFNet("val", root=str(tmp_path))[0]
    stored = _decoded(tmp_path / "images/00101D.png").permute(2, 0, 1)
    assert all(torch.equal(channel, stored[3]) for channel in sample["inputs"]["thermal"])
    assert torch.allclose(sample["inputs"]["rgb"][2] * 0.225 + 0.406, stored[2], atol=1e-6)


def test_a_thermal_picture_may_be_saved_with_three_equal_channels(tmp_path: Path) -> None:
    fake.write(tmp_path)
    expected = MFNet("test", root=str(tmp_path))[0]["inputs"]["thermal"]
    gray = Image.open(tmp_path / "ther/00201D.jpg")
    gray.convert("RGB").save(tmp_path / "ther/00201D.jpg", quality=95)
    thermal = MFNet("test", root=str(tmp_path))[0]["inputs"]["thermal"]
    assert thermal.shape == expected.shape
    assert (thermal - expected).abs().max() < 0.05
    assert all(torch.equal(channel, thermal[0]) for channel in thermal)
    dataset = MFNet("test", root=str(tmp_path))
    assert dataset.read_modality("thermal", [tmp_path / "ther/00201D.jpg"]).shape == (12, 16, 1)


def test_a_thermal_picture_in_colours_is_named(tmp_path: Path) -> None:
    fake.write(tmp_path)
    values = np.full((12, 16, 3), 100)
    values[3:, :, 0] = 140
    path = save(tmp_path / "ther/00202N.jpg", values)
    dataset = MFNet("test", root=str(tmp_path))
    assert dataset[0]["inputs"]["thermal"].shape == (3, 12, 16)
    with pytest.raises(LightningMMError, match=rf"{path} is a colour image, expected one channel of thermal"):
        dataset[1]


def test_validation_is_listed_or_split_from_train_by_name_and_never_from_test(tmp_path: Path) -> None:
    fake.write(tmp_path / "listed", val=True)
    assert MFNet("val", root=str(tmp_path / "listed")).ids == tuple(fake.VAL)
    assert MFNet("train", root=str(tmp_path / "listed")).ids == tuple(fake.TRAIN)
    fake.write(tmp_path / "split")
    train, val = (MFNet(split, root=str(tmp_path / "split"), val_fraction=0.3) for split in ("train", "val"))
    assert sorted(train.ids + val.ids) == fake.TRAIN
    assert 0 < len(val) < len(train)
    assert MFNet("test", root=str(tmp_path / "split"), val_fraction=0.9).ids == tuple(fake.TEST)
    assert set(val.ids) <= set(MFNet("val", root=str(tmp_path / "split"), val_fraction=0.6).ids)


def test_a_folder_of_neither_layout(tmp_path: Path) -> None:
    fake.write(tmp_path)
    for folder in ("rgb", "ther"):
        (tmp_path / folder).rename(tmp_path / f"{folder}_old")
    with pytest.raises(DataNotFoundError, match=r"holds neither rgb/ and ther/ nor images/; see `lightning-mm data"):
        MFNet("test", root=str(tmp_path))


def test_three_channels_where_four_are_expected(tmp_path: Path) -> None:
    fake.write(tmp_path, stacked=True)
    path = save(tmp_path / "images/00201D.png", np.zeros((12, 16, 3)))
    with pytest.raises(LightningMMError, match=rf"{path} should be four channels \(RGBA\), .* got mode RGB"):
        MFNet("test", root=str(tmp_path))[0]


def test_what_the_page_says() -> None:
    about = MFNet.about
    assert about.name == "mfnet"
    assert sum(about.counts.values()) == 820 + 749  # day and night, as the authors count
    assert about.recalled
    assert "Split trap" in about.notes
    assert len(MFNet.class_names) == 9
