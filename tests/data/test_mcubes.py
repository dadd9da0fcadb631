"""MCubeS on files generated in the true layout, of 8 and of 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_mm.data import MCubeS
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import mcubes as fake
from tests.support.image_files import save


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_values_of_8_and_16_bits(tmp_path: Path, dtype: type) -> None:
    fake.write(tmp_path, dtype)
    name, top = fake.SPLITS["test"][1], np.iinfo(dtype).max
    rng = np.random.default_rng(1)
    colour = rng.integers(0, top + 1, (fake.HEIGHT, fake.WIDTH, 3)).astype(dtype)
    infrared = rng.integers(0, top + 1, (fake.HEIGHT, fake.WIDTH)).astype(dtype)
    save(tmp_path / "polL_color" / f"{name}.png", colour)
    save(tmp_path / "NIR_warped" / f"{name}.png", infrared)
    inputs = MCubeS("test", root=str(tmp_path))[1]["inputs"]
    assert list(inputs) == ["image", "aolp", "dolp", "nir"]
    assert {tuple(value.shape) for value in inputs.values()} == {(3, fake.HEIGHT, 20)}
    back = inputs["image"].permute(1, 2, 0) * torch.tensor([0.229, 0.224, 0.225]) + torch.tensor([0.485, 0.456, 0.406])
    assert np.allclose(back, colour[:, 192:] / top, atol=1e-6)  # red first, as in the file
    assert all(np.allclose(channel, infrared[:, 192:] / top, atol=1e-6) for channel in inputs["nir"])


def test_polarisation_is_raw_and_in_its_order(tmp_path: Path) -> None:
    fake.write(tmp_path)
    inputs = MCubeS("val", root=str(tmp_path))[0]["inputs"]
    folders = ("polL_aolp_sin", "polL_aolp_cos", "polL_dolp")
    sine, cosine, degree = (
        torch.from_numpy(np.load(tmp_path / folder / f"{fake.SPLITS['val'][0]}.npy")[:, 192:]).float()
        for folder in folders
    )
    assert torch.equal(inputs["aolp"], torch.stack([sine, cosine, sine]))
    assert torch.equal(inputs["dolp"], torch.stack([degree] * 3))


def test_the_left_columns_are_dropped_and_evaluation_takes_the_centre(tmp_path: Path) -> None:
    fake.write(tmp_path)
    whole = MCubeS("test", root=str(tmp_path))[0]
    assert whole["target"].shape == (fake.HEIGHT, 20)
    assert whole["target"][0].eq(255).all()
    cropped = MCubeS("test", root=str(tmp_path), eval_crop=(8, 12))[0]
    assert torch.equal(cropped["target"], whole["target"][4:12, 4:16])
    for name, value in cropped["inputs"].items():
        assert torch.equal(value, whole["inputs"][name][:, 4:12, 4:16])
    assert MCubeS("train", root=str(tmp_path), eval_crop=(8, 12))[0]["target"].shape == (fake.HEIGHT, 20)


def test_the_published_sizes(tmp_path: Path) -> None:
    """1024 x 1224 on disk: four columns more are cut on either side of the centre of 1024 x 1024."""
    dataset = MCubeS.__new__(MCubeS)
    dataset.split, dataset.eval_crop = "val", (1024, 1024)
    columns = np.broadcast_to(np.arange(1224), (1024, 1224))
    centre = dataset.cut(columns)
    assert centre.shape == (1024, 1024)
    assert centre[0, 0] == 192 + 4


def test_lists_are_the_sets_own(tmp_path: Path) -> None:
    fake.write(tmp_path)
    assert {split: MCubeS(split, root=str(tmp_path)).ids for split in fake.SPLITS} == {
        split: tuple(names) for split, names in fake.SPLITS.items()
    }


def test_half_of_the_angle_is_no_angle(tmp_path: Path) -> None:
    fake.write(tmp_path)
    path = tmp_path / "polL_aolp_cos" / f"{fake.SPLITS['test'][0]}.npy"
    path.unlink()
    with pytest.raises(DataNotFoundError, match=rf"{fake.SPLITS['test'][0]} has no aolp, expected at {path}"):
        MCubeS("test", root=str(tmp_path))
    inputs = MCubeS("test", root=str(tmp_path), allow_missing=True)[0]["inputs"]
    assert [name for name, value in inputs.items() if value is None] == ["aolp"]


def test_wrong_sizes(tmp_path: Path) -> None:
    fake.write(tmp_path)
    name = fake.SPLITS["test"][0]
    dataset = MCubeS("test", root=str(tmp_path), eval_crop=(fake.HEIGHT, 21))
    with pytest.raises(LightningMMError, match=rf"{name}.png is smaller than what is cut from it, .* \(16, 212\)"):
        dataset[0]
    save(tmp_path / "polL_aolp_cos" / f"{name}.npy", np.zeros((fake.HEIGHT, fake.WIDTH - 1)))
    with pytest.raises(LightningMMError, match=rf"sine and cosine .*polL_aolp_cos/{name}.npy': \(16, 211\)"):
        MCubeS("test", root=str(tmp_path))[0]
    narrow = tmp_path / "narrow"
    fake.write(narrow, width=192)
    with pytest.raises(LightningMMError, match="smaller than what is cut from it"):
        MCubeS("test", root=str(narrow))[0]


def test_arguments_and_page(tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match=r"eval_crop must be a positive height and width, got \(0, 4\)"):
        MCubeS("test", root=str(tmp_path), eval_crop=(0, 4))
    assert sum(MCubeS.about.counts.values()) == 500
    assert len(MCubeS.class_names) == 20
