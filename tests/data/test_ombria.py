"""Ombria on files generated in the true layout, whole and broken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mm.data import ModalityDropoutDataModule, Ombria
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import ombria as fake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fake.write(tmp_path / "ombria", {"train": fake.TRAIN, "test": fake.TEST})
    return tmp_path / "ombria"


def test_shapes_values_and_normalisation(root: Path) -> None:
    dataset = Ombria("test", root=str(root), size=16)
    assert len(dataset) == 3
    sample = dataset[1]
    assert {name: tuple(value.shape) for name, value in sample["inputs"].items()} == {
        "s1_before": (1, 16, 16),
        "s1_after": (1, 16, 16),
        "s2_before": (3, 16, 16),
        "s2_after": (3, 16, 16),
    }
    assert {name: value.shape[0] for name, value in sample["inputs"].items()} == Ombria.channels
    raw = np.asarray(Image.open(root / "OmbriaS2/test/AFTER/S2_after_0101.png")).transpose(2, 0, 1)
    scale, shift = torch.tensor([34.68, 30.05, 26.42]).view(3, 1, 1), torch.tensor([58.39, 68.44, 35.38]).view(3, 1, 1)
    back = sample["inputs"]["s2_after"] * scale + shift
    assert torch.allclose(back, torch.from_numpy(raw.astype(np.float32)), atol=1e-3)
    mask = np.asarray(Image.open(root / "OmbriaS1/test/MASK/S1_mask_0101.png"))
    assert sample["target"].dtype == torch.int64
    assert torch.equal(sample["target"], torch.from_numpy(mask == 255).long())


def test_resizing_takes_the_area_mean_of_images_and_never_mixes_labels(root: Path) -> None:
    full, half, twice = (Ombria("test", root=str(root), size=size)[0] for size in (16, 8, 32))
    for name in full["inputs"]:
        mean = torch.nn.functional.avg_pool2d(full["inputs"][name][None], 2)[0]
        assert (
            half["inputs"][name] - mean
        ).abs().max() < 1.01 / 26.42  # rounded to 8 bits twice, so at most one level off
        assert twice["inputs"][name].shape[-2:] == (32, 32)
    assert torch.equal(twice["target"], full["target"].repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert set(half["target"].unique().tolist()) <= {0, 1}


def test_validation_is_split_from_train_by_the_name_of_the_tile_alone(root: Path, tmp_path: Path) -> None:
    train, val, test = (Ombria(split, root=str(root)) for split in ("train", "val", "test"))
    assert sorted(train.ids + val.ids) == fake.TRAIN
    assert test.ids == tuple(fake.TEST)
    assert 0 < len(val) < len(train)
    fake.write(tmp_path / "more", {"train": fake.TRAIN + [f"{i:04d}" for i in range(200, 400)]})
    more = Ombria("val", root=str(tmp_path / "more"))
    assert set(more.ids) & set(fake.TRAIN) == set(val.ids)
    assert 0.1 < len(more) / 220 < 0.3
    assert len(Ombria("val", root=str(root), val_fraction=0.0)) == 0
    larger = Ombria("val", root=str(root), val_fraction=0.5)
    assert set(val.ids) <= set(larger.ids)


def test_tiles_are_found_without_lists_of_ids(tmp_path: Path) -> None:
    fake.write(tmp_path, {"train": fake.TRAIN[:3], "test": fake.TEST}, listed=False)
    assert Ombria("test", root=str(tmp_path)).ids == tuple(fake.TEST)
    assert len(Ombria("train", root=str(tmp_path), val_fraction=0.0)) == 3


def test_masks_may_lie_under_the_other_sensor(root: Path) -> None:
    expected = Ombria("test", root=str(root), size=16)[0]["target"]
    source = root / "OmbriaS1/test/MASK/S1_mask_0100.png"
    target = root / "OmbriaS2/test/MASK/S2_mask_0100.png"
    target.parent.mkdir()
    source.rename(target)
    assert torch.equal(Ombria("test", root=str(root), size=16)[0]["target"], expected)


def test_the_cache_changes_nothing_and_cannot_be_written_through(root: Path) -> None:
    cached, plain = Ombria("test", root=str(root)), Ombria("test", root=str(root), cache=False)
    first = cached[0]
    first["inputs"]["s1_after"].zero_()
    first["target"].fill_(7)
    again, expected = cached[0], plain[0]
    assert torch.equal(again["target"], expected["target"])
    assert torch.equal(again["inputs"]["s1_after"], expected["inputs"]["s1_after"])
    (root / "OmbriaS1/test/AFTER/S1_after_0100.png").unlink()
    cached[0]  # no longer needs the file
    with pytest.raises(DataNotFoundError, match=r"S1_after_0100\.png is not there"):
        plain[0]


def test_root_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(root.parent))
    assert len(Ombria("test")) == 3
    monkeypatch.delenv("LIGHTNING_MM_DATA")
    with pytest.raises(
        DataNotFoundError, match="no data folder is set; set LIGHTNING_MM_DATA to the folder that holds"
    ):
        Ombria("test")


def test_a_root_that_is_not_there_or_not_ombria(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataNotFoundError, match=r"nowhere/ombria does not exist; set LIGHTNING_MM_DATA"):
        Ombria("test")
    with pytest.raises(
        DataNotFoundError,
        match="lacks OmbriaS1/, OmbriaS2/; set LIGHTNING_MM_DATA",
    ):
        Ombria("test", root=str(tmp_path))
    (tmp_path / "OmbriaS1").mkdir()
    with pytest.raises(DataNotFoundError, match="no tiles for 'test', expected"):
        Ombria("test", root=str(tmp_path))


def test_a_missing_file_names_tile_modality_and_path(root: Path) -> None:
    path = root / "OmbriaS2/test/BEFORE/S2_before_0101.png"
    path.unlink()
    with pytest.raises(DataNotFoundError, match=rf"sample 0101 has no s2_before, expected at {path}; complete"):
        Ombria("test", root=str(root))
    (root / "OmbriaS1/test/MASK/S1_mask_0100.png").unlink()
    with pytest.raises(
        DataNotFoundError,
        match=r"sample 0100 has no label image, expected at .*S1_mask.* or .*S2_mask",
    ):
        Ombria("test", root=str(root), allow_missing=True)


def test_allow_missing_gives_none_and_the_data_module_marks_it(root: Path) -> None:
    (root / "OmbriaS2/test/BEFORE/S2_before_0101.png").unlink()
    dataset = Ombria("test", root=str(root), size=8, allow_missing=True)
    assert dataset[1]["inputs"]["s2_before"] is None
    data = ModalityDropoutDataModule(lambda split: dataset, list(Ombria.channels), batch_size=4)
    batch = next(iter(data.test_dataloader()))
    assert batch["observed"].tolist() == [[True] * 4, [True, True, False, True], [True] * 4]
    assert batch["inputs"]["s2_before"][1].eq(0).all()
    for folder in ("OmbriaS1/test/BEFORE", "OmbriaS1/test/AFTER", "OmbriaS2/test/AFTER"):
        next((root / folder).glob("*_0101.png")).unlink()
    with pytest.raises(DataNotFoundError, match="sample 0101 has no modality at all"):
        Ombria("test", root=str(root), allow_missing=True)


@pytest.mark.parametrize("keep", [0, 20, 60, 0.5, 0.9])
def test_a_truncated_png_is_named(root: Path, keep: float) -> None:
    path = root / "OmbriaS2/test/AFTER/S2_after_0102.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    dataset = Ombria("test", root=str(root))
    dataset[0]
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*\); copy it again"):
        dataset[2]


def test_labels_out_of_range(root: Path) -> None:
    path = fake.save(root, "S1", "test", "MASK", "0100", np.full((16, 16), 3))
    with pytest.raises(LightningMMError, match=rf"label out of range in {path}: .* got \[3\]"):
        Ombria("test", root=str(root))[0]


def test_wrong_mode_and_different_sizes(root: Path) -> None:
    path = fake.save(root, "S1", "test", "AFTER", "0100", np.zeros((16, 16, 3)))
    with pytest.raises(LightningMMError, match=rf"{path} should be 8-bit gray \(mode L\), got mode RGB"):
        Ombria("test", root=str(root))[0]
    fake.save(root, "S2", "test", "AFTER", "0101", np.zeros((8, 8, 3)))
    with pytest.raises(
        LightningMMError, match=r"the files of sample 0101 differ in size .*S2_after_0101\.png': \(8, 8\)"
    ):
        Ombria("test", root=str(root))[1]


def test_bad_arguments(root: Path) -> None:
    for settings, message in [
        ({"split": "dev"}, r"split must be one of \['train', 'val', 'test'\], got 'dev'"),
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"val_fraction": 1.0}, r"val_fraction must be at least 0 and below 1, got 1\.0"),
    ]:
        with pytest.raises(LightningMMError, match=message):
            Ombria(**{"split": "test", "root": str(root), **settings})
    (root / "test_ids.txt").write_text("0100 0100")
    with pytest.raises(LightningMMError, match="names '0100' twice"):
        Ombria("test", root=str(root))
    with pytest.raises(IndexError, match="outside of the"):
        Ombria("val", root=str(root))[99]


def test_the_real_tiles(data_root: Path) -> None:
    """160 + 70 tiles; a third of the pixels is flood, and inputs are about standardised."""
    splits = {split: Ombria(split, root=str(data_root / "ombria"), size=32) for split in ("train", "val", "test")}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 132, "val": 28, "test": 70}
    samples = [splits["test"][i] for i in range(0, 70, 7)]
    assert 0.15 < torch.stack([sample["target"] for sample in samples]).float().mean() < 0.55
    for name in Ombria.channels:
        values = torch.stack([sample["inputs"][name] for sample in samples])
        assert values.mean().abs() < 0.5
        assert 0.4 < values.std() < 1.6
