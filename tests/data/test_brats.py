"""BraTS: layouts of three years, splits, normalisation, crops, and mistakes in the files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import BraTS, ModalityDropoutDataModule
from lightning_mm.data.hard_table import HardTable
from lightning_mm.errors import DataNotFoundError, IncompleteDataError, LightningMMError
from lightning_mm.missing import Complete, CsvTable
from tests.support.fake import brats

YEARS: tuple[brats.Year, ...] = (2018, 2020, 2023)


def expected(name: str, part: str) -> torch.Tensor:
    """Zero mean and unit deviation over what is not 0."""
    values = brats.arrays(name)[part].astype(np.float64)
    brain = values[values != 0]
    return torch.from_numpy(np.where(values == 0, 0, (values - brain.mean()) / brain.std())).float()[None]


@pytest.mark.parametrize("year", YEARS)
def test_samples_are_what_the_files_hold(year: brats.Year, tmp_path: Path) -> None:
    names = brats.write(tmp_path, year, listed=True)
    for split, some in {"train": names[:-4], "val": names[-4:-2], "test": names[-2:]}.items():
        data = BraTS(split, str(tmp_path))
        assert data.ids == tuple(some)
        sample = data[len(data) - 1]
        for part in BraTS.channels:
            assert torch.allclose(sample["inputs"][part], expected(some[-1], part), atol=1e-5)
        seg = brats.arrays(some[-1])["seg"]
        assert sample["target"].dtype == torch.int64
        assert torch.equal(sample["target"], torch.from_numpy(np.where(seg == 4, 3, seg)).long())
        assert sorted(sample["target"].unique().tolist()) == [0, 1, 2, 3]


def test_patients_are_divided_by_their_names(tmp_path: Path) -> None:
    names = brats.write(tmp_path, 2018)
    splits = {split: BraTS(split, str(tmp_path), val_fraction=0.3).ids for split in ("train", "val", "test")}
    assert sorted(name for ids in splits.values() for name in ids) == sorted(names)
    (tmp_path / "train.txt").write_text("\n".join(names[:8]))
    with pytest.raises(DataNotFoundError, match=r"has a list for train only; write train\.txt and test\.txt"):
        BraTS("train", str(tmp_path))
    (tmp_path / "test.txt").write_text("\n".join(names[8:]))
    train, val = BraTS("train", str(tmp_path), val_fraction=0.3).ids, BraTS("val", str(tmp_path), val_fraction=0.3).ids
    assert sorted(train + val) == sorted(names[:8])
    assert BraTS("test", str(tmp_path)).ids == tuple(names[8:])


def test_whole_samples_are_padded_and_cropped_about_the_centre(tmp_path: Path) -> None:
    brats.write(tmp_path, listed=True)
    stored, fitted = BraTS("val", str(tmp_path))[0], BraTS("val", str(tmp_path), size=(8, 16, 8))[0]
    for had, has in ((stored["target"], fitted["target"]), *zip(*(s["inputs"].values() for s in (stored, fitted)))):
        assert torch.equal(has[..., 3:13, :], had[..., 2:10, :, :])
        assert not has[..., :3, :].any()
        assert not has[..., 13:, :].any()


def test_crops_are_drawn_anew_in_every_epoch_of_training_alone(tmp_path: Path) -> None:
    brats.write(tmp_path, listed=True)
    data = BraTS("train", str(tmp_path), crop=(4, 6, 8), cache=True)
    whole = data[2]
    corners = set()
    for seed in range(12):
        crop = data.draw_sample(2, np.random.default_rng(seed))
        x, y, z = crop["corner"].tolist()
        corners.add((x, y, z))
        assert torch.equal(crop["target"], whole["target"][x : x + 4, y : y + 6, z : z + 8])
        for name, value in crop["inputs"].items():
            assert torch.equal(value, whole["inputs"][name][:, x : x + 4, y : y + 6, z : z + 8])
    assert len(corners) > 6
    assert {z for _, _, z in corners} == {0}
    val = BraTS("val", str(tmp_path), crop=(4, 6, 8))
    assert val.draw_sample(0, np.random.default_rng(0))["target"].shape == brats.SHAPE
    with pytest.raises(LightningMMError, match=r"crop \(4, 6, 9\) is larger than patient"):
        BraTS("train", str(tmp_path), crop=(4, 6, 9)).draw_sample(0, np.random.default_rng(0))


def test_what_a_published_table_hides_is_not_opened(tmp_path: Path) -> None:
    names = brats.write(tmp_path, 2018, listed=True)
    columns = list(BraTS.channels)
    rng = np.random.default_rng(0)
    exists = {name: [bool(one) for one in rng.permutation([True, *(rng.random(3) < 0.4)])] for name in names[:-4]}
    table = tmp_path / "table.csv"
    rows = [f'{name},0,"{row}",[0]' for name, row in exists.items()]
    table.write_text("\n".join(["data_name,mask_id,mask,pos_mask_ids", *rows]))

    def batches(allow_missing: bool) -> list[dict[str, Any]]:
        data = ModalityDropoutDataModule(
            lambda split: BraTS(split, str(tmp_path), crop=(6, 6, 6), allow_missing=allow_missing), columns, Complete(),
            batch_size=3, train_observed=CsvTable(str(table)),
        )  # fmt: skip
        data.setup("fit")
        hard: Any = data._split("train").dataset
        assert isinstance(hard, HardTable)
        assert hard.available.tolist() == list(exists.values())
        return [batch for _ in range(2) for batch in data.train_dataloader()]

    before = batches(allow_missing=False)
    for name, row in exists.items():
        for part, there in zip(columns, row):
            if not there:
                brats.path_of(tmp_path, 2018, name, part).unlink()
    after = batches(allow_missing=True)
    assert len(before) == len(after) == 6
    for one, other in zip(before, after):
        assert torch.equal(one["observed"], other["observed"])
        assert torch.equal(one["target"], other["target"])
        assert all(torch.equal(value, other["inputs"][name]) for name, value in one["inputs"].items())


def test_missing_files_are_told_at_once(tmp_path: Path) -> None:
    names = brats.write(tmp_path, listed=True)
    for name in names[:2]:
        brats.path_of(tmp_path, 2020, name, "t1ce").unlink()
    with pytest.raises(IncompleteDataError, match=rf"sample {names[0]} has no t1ce, .*\(1 more samples lack files\)"):
        BraTS("train", str(tmp_path))
    data = BraTS("train", str(tmp_path), allow_missing=True)
    assert data[0]["inputs"]["t1ce"] is None
    assert data.template("t1ce", data[0]).shape == (1, *brats.SHAPE)
    assert f"{names[0]} has no t1ce" in data.explain_missing(0, "t1ce")
    brats.path_of(tmp_path, 2020, names[0], "seg").unlink()
    with pytest.raises(IncompleteDataError, match="has no label image, expected at"):
        BraTS("train", str(tmp_path), allow_missing=True)
    with pytest.raises(DataNotFoundError, match="no patients in"):
        BraTS("train", str(tmp_path / names[0]))


@pytest.mark.wrong_types
def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"size": (8, 8)}, "size must be three positive numbers"),
        ({"crop": (8, 8, 0)}, "crop must be three positive numbers"),
        ({"size": (8, 8, 8), "crop": (8, 9, 8)}, "crop .* is larger than size"),
        ({"test_fraction": 0.6, "val_fraction": 0.4}, "leave nothing to train on"),
        ({"test_fraction": 1.0}, "test_fraction must be at least 0 and below 1"),
    ):
        with pytest.raises(LightningMMError, match=message):
            BraTS("train", str(tmp_path), **settings)


@pytest.mark.wrong_types
def test_damaged_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = brats.write(tmp_path, 2023, listed=True)
    flair, seg = (brats.path_of(tmp_path, 2023, names[0], part) for part in ("flair", "seg"))
    arrays = brats.arrays(names[0])
    spoiled = arrays["flair"].astype(np.float32)
    spoiled[3, 3, 3] = np.nan
    for path, values, message in (
        (flair, arrays["flair"][:, :, :-1], r"differ in size \(x, y, z\)"),
        (flair, spoiled, "holds values that are not finite"),
        (flair, arrays["flair"][:, :, 0], "expected a volume of three axes"),
        (seg, np.where(arrays["seg"] == 4, 7, arrays["seg"]).astype(np.int16), r"label out of range .*got \[7\.0\]"),
        (seg, np.where(arrays["seg"] == 1, 3, arrays["seg"]).astype(np.int16), "has the labels 3 and 4"),
    ):
        before = path.read_bytes()
        brats.save(path, values)
        with pytest.raises(LightningMMError, match=message):
            BraTS("train", str(tmp_path))[0]
        path.write_bytes(before)
    for content in (before[:100], b"no volume", b""):
        seg.write_bytes(content)
        with pytest.raises(LightningMMError, match="is damaged"):
            BraTS("train", str(tmp_path))[0]
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(LightningMMError, match=r"pip install 'lightning-mm\[volumes\]'"):
        BraTS("train", str(tmp_path))[1]
