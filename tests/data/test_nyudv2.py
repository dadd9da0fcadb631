"""NYU Depth v2 on files generated in the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mm.data import NYUDv2
from lightning_mm.errors import LightningMMError
from tests.support.fake import nyudv2 as fake
from tests.support.image_files import save


def test_values(tmp_path: Path) -> None:
    fake.write(tmp_path)
    sample = NYUDv2("test", root=str(tmp_path))[1]
    assert list(sample["inputs"]) == ["rgb", "hha"]
    stored = {folder: np.asarray(Image.open(tmp_path / folder / "30.jpg")) / 255 for folder in ("RGB", "HHA")}
    assert np.allclose(sample["inputs"]["hha"].permute(1, 2, 0), stored["HHA"], atol=1e-6)
    back = sample["inputs"]["rgb"].permute(1, 2, 0) * torch.tensor([0.229, 0.224, 0.225])
    assert np.allclose(back + torch.tensor([0.485, 0.456, 0.406]), stored["RGB"], atol=1e-6)


def test_labels_are_moved_down_and_both_voids_are_255(tmp_path: Path) -> None:
    fake.write(tmp_path)
    save(tmp_path / "Label/30.png", np.array([[0, 1], [40, 255]]).repeat(6, 0).repeat(8, 1))
    target = NYUDv2("test", root=str(tmp_path))[1]["target"]
    assert target[::6, ::8].tolist() == [[255, 0], [39, 255]]
    path = save(tmp_path / "Label/31.png", np.full((12, 16), 41))
    with pytest.raises(LightningMMError, match=rf"label out of range in {path}: expected 1 to 40, and 0 or 255"):
        NYUDv2("test", root=str(tmp_path))[2]


def test_validation_is_split_from_train(tmp_path: Path) -> None:
    fake.write(tmp_path)
    # Another list is not the set's own: a file of this name is not looked at.
    (tmp_path / "val.txt").write_text("0\n")
    train, val = (NYUDv2(split, root=str(tmp_path), val_fraction=0.3) for split in ("train", "val"))
    assert sorted(train.ids + val.ids) == sorted(fake.TRAIN)
    assert 0 < len(val) < len(train)


def test_what_the_page_says() -> None:
    assert len(set(NYUDv2.class_names)) == 40
    assert NYUDv2.about.counts == {"train": 795, "test": 654}
    assert NYUDv2.about.recalled
