"""MsLesions on files generated in the true layout, whole and broken, and on the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import Collate, Compose, Dihedral, ModalityDropoutDataModule, MsLesions, RandomCropResize
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.modalities import Modalities
from tests.support.fake import ms_lesions as fake

NAMES = list(MsLesions.channels)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return fake.write(tmp_path / "ms_lesions")


def test_samples_are_the_slices_of_the_file_padded_about_their_centre(root: str) -> None:
    dataset, arrays = MsLesions("test", root=root, size=16), fake.arrays("26")
    assert len(dataset) == 5
    for i in range(5):
        sample = dataset[i]
        assert list(sample["inputs"]) == NAMES
        target = torch.zeros(16, 16, dtype=torch.int64)
        target[3:12, 0:15] = torch.from_numpy(arrays["mask"][i].astype(np.int64))
        assert torch.equal(sample["target"], target)
        assert sample["target"].dtype == torch.int64
        assert dataset.slices[i] == ("26", 40 + i)
        for k, name in enumerate(NAMES):
            assert sample["inputs"][name].shape == (1, 16, 16)
            assert sample["inputs"][name].dtype == torch.float32
            brain = torch.zeros(16, 16, dtype=torch.bool)
            brain[3:12, 0:15] = torch.from_numpy(arrays["image"][i, k] != 0)
            assert sample["inputs"][name][0][~brain].eq(0).all()  # exactly
            assert sample["inputs"][name][0][brain].ne(0).all()


@pytest.mark.parametrize(("size", "x", "y"), [(7, (1, 8), (4, 11)), (8, (0, 8), (3, 11)), (1, (4, 5), (7, 8))])
def test_cropping_is_about_the_centre(root: str, size: int, x: tuple[int, int], y: tuple[int, int]) -> None:
    whole, cropped = MsLesions("test", root=root, size=15)[2], MsLesions("test", root=root, size=size)[2]
    window = (slice(3 + x[0], 3 + x[1]), slice(*y))  # 9 rows lie in rows 3 to 12 of the whole
    assert torch.equal(cropped["target"], whole["target"][window])
    for name in NAMES:
        assert torch.equal(cropped["inputs"][name][0], whole["inputs"][name][0][window])


def test_brain_voxels_of_every_patient_and_modality_are_standardised(root: str) -> None:
    for test_patient, val_patient in (("26", "07"), ("19", "26"), ("07", "19")):
        settings = {"root": root, "size": 16, "test_patient": test_patient, "val_patient": val_patient}
        for split in ("train", "val", "test"):
            dataset = MsLesions(split, **settings)
            for name in NAMES:
                values = torch.stack([dataset[i]["inputs"][name] for i in range(len(dataset))])
                brain = values[values != 0].double()
                assert brain.mean().abs() < 1e-5
                assert (brain.std(correction=0) - 1).abs() < 1e-5


def test_brightness_and_contrast_of_a_patient_do_not_matter(root: str, tmp_path: Path) -> None:
    image = fake.arrays("26")["image"]
    other = fake.write(
        tmp_path / "other", {"26": {"image": np.where(image != 0, 3 * image + 100, 0).astype(np.float32)}}
    )
    first, second = (MsLesions("test", root=folder, size=16)[1]["inputs"] for folder in (root, other))
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in NAMES)


def test_names_say_which_modality_is_which_whatever_the_order(root: str, tmp_path: Path) -> None:
    order = [2, 0, 3, 1]
    arrays = fake.arrays("26")
    swapped = {"image": arrays["image"][:, order], "modalities": arrays["modalities"][order]}
    other = fake.write(tmp_path / "swapped", {"26": swapped})
    first, second = (MsLesions("test", root=folder, size=16)[1]["inputs"] for folder in (root, other))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


@pytest.mark.parametrize(("test_patient", "val_patient"), [("26", "07"), ("07", "26"), ("19", "07"), ("26", None)])
def test_no_slice_is_in_two_splits_and_no_patient_in_test_and_another(
    root: str, test_patient: str, val_patient: str | None
) -> None:
    settings = {"root": root, "test_patient": test_patient, "val_patient": val_patient, "size": 8}
    slices = {split: set(MsLesions(split, **settings).slices) for split in ("train", "val", "test")}
    patients = {split: {patient for patient, _ in found} for split, found in slices.items()}
    assert patients["test"] == {test_patient}
    assert len(slices["test"]) == fake.SIZES[test_patient][0]
    assert test_patient not in patients["train"] | patients["val"]
    assert not slices["train"] & slices["val"]
    if val_patient is not None:
        assert patients["val"] == {val_patient}
        assert val_patient not in patients["train"]
        assert sum(map(len, slices.values())) == 40


@pytest.mark.parametrize("gap", [0, 3])
def test_without_a_validation_patient_the_highest_fifth_validates_and_a_gap_is_left_out(root: str, gap: int) -> None:
    settings = {"root": root, "val_patient": None, "size": 8, "gap": gap}
    train, val = MsLesions("train", **settings), MsLesions("val", **settings)
    for patient, fifth in (("07", 4), ("19", 3)):
        low, high = ([z for name, z in dataset.slices if name == patient] for dataset in (train, val))
        assert high == list(range(40 + fake.SIZES[patient][0] - fifth, 40 + fake.SIZES[patient][0]))
        assert low == list(range(40, high[0] - gap))


def test_the_gap_is_one_of_height_not_of_rows(root: str, tmp_path: Path) -> None:
    """Slices without lesion are not in the file: what is far away in the head may be the next row."""
    z = np.concatenate([np.arange(16), 30 + np.arange(4)])
    shuffled = np.random.default_rng(0).permutation(20)
    other = fake.write(tmp_path / "holes", {"07": {"z": z[shuffled]}})
    settings = {"root": other, "test_patient": "26", "val_patient": None, "size": 8, "gap": 3}
    found = {
        split: sorted(z for p, z in MsLesions(split, **settings).slices if p == "07") for split in ("train", "val")
    }
    assert found == {"train": list(range(16)), "val": [30, 31, 32, 33]}


def test_reading_is_pure(root: str) -> None:
    dataset, expected = MsLesions("val", root=root, size=16), MsLesions("val", root=root, size=16)[1]
    sample = dataset[1]
    sample["inputs"]["t1"].fill_(7)
    sample["target"].fill_(7)
    again = dataset[1]
    assert torch.equal(again["target"], expected["target"])
    for name in NAMES:
        assert torch.equal(again["inputs"][name], expected["inputs"][name])
    assert torch.equal(sample["inputs"]["t2"], expected["inputs"]["t2"])  # modalities share no memory


def test_collate_and_the_data_module_with_augmentation(root: str) -> None:
    dataset = MsLesions("test", root=root, size=16)
    first = dataset[0]
    batch = Collate(Modalities(NAMES))([first, {**first, "inputs": {**first["inputs"], "t2": None}}])
    assert batch["inputs"]["t2"].shape == (2, 1, 16, 16)
    assert batch["observed"].tolist() == [[True] * 4, [True, True, True, False]]
    data = ModalityDropoutDataModule(
        lambda split: MsLesions(split, root=root, size=16),
        ["flair", "t2"],
        augment=Compose([RandomCropResize(12), Dihedral()]),
        batch_size=4,
    )
    assert [len(data.train_dataloader()), len(data.val_dataloader()), len(data.test_dataloader())] == [4, 5, 2]
    batch = next(iter(data.train_dataloader()))
    assert batch["inputs"]["flair"].shape == (4, 1, 12, 12)
    assert batch["target"].shape == (4, 12, 12)
    assert batch["available"].any(1).all()
    assert next(iter(data.val_dataloader()))["target"].shape == (4, 16, 16)


def test_the_folder_comes_from_the_environment(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path))
    assert len(MsLesions("test")) == 5
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataNotFoundError, match=r"MsLesions: the folder .*nowhere/ms_lesions does not exist; set LIGH"):
        MsLesions("test")
    fake.path_of(root, "19").unlink()  # also where this split does not need it: the study would break off later
    with pytest.raises(DataNotFoundError, match=r"MsLesions: the folder .* lacks patient19_lesion_slices\.npz; set"):
        MsLesions("test", root=root)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda a: a["mask"].__setitem__((0, 0, 0), 2),
            r"out of range in .*patient26.*: expected 0 .* got \[2\]",
        ),
        (lambda a: a["image"].__setitem__((0, 0, 3, 3), np.inf), "patient26.*: image holds values that are not finite"),
        (lambda a: a.__setitem__("z", a["z"][1:]), r"should hold image \[slice, 4, x, y\].* \(5, 9, 15\) and \(4,\)"),
        (lambda a: a.__setitem__("mask", a["mask"][:, 1:]), r"got \(5, 4, 9, 15\), \(5, 8, 15\) and \(5,\)"),
        (lambda a: a.__setitem__("modalities", np.array(list("abcd"))), r"should hold \['FLAIR', .* got \['a', 'b'"),
        (
            lambda a: a.__setitem__("z", np.array(3)),
            r"patient26.*: expected z to hold integers in 1 .* shape \(\); copy",
        ),
        (lambda a: a.__setitem__("image", a["image"].astype(str)), r"image to hold integers or floats in 4 .* got <U"),
        (lambda a: a.__setitem__("modalities", np.arange(4)), "modalities to hold strings in 1 dimensions, got int64"),
        (lambda a: a.update({key: a[key][:0] for key in ("image", "mask", "z")}), "of at least one slice"),
    ],
)
def test_a_file_that_is_not_right(tmp_path: Path, spoil: Callable[[fake.Arrays], Any], message: str) -> None:
    arrays = fake.arrays("26")
    spoil(arrays)
    with pytest.raises(LightningMMError, match=message):
        MsLesions("test", root=fake.write(tmp_path, {"26": arrays}))


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(root: str, keep: float) -> None:
    path = fake.path_of(root, "26")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*\); copy it again"):
        MsLesions("test", root=root)


def test_bad_arguments(root: str) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"split": "dev"}, r"split must be one of \['train', 'val', 'test'\], got 'dev'"),
        ({"test_patient": "7"}, r"test_patient must be one of \['07', '19', '26'\], got '7'"),
        ({"val_patient": "08"}, r"val_patient must be one of .* got '08'"),
        ({"test_patient": "07"}, "test_patient and val_patient are both '07'; a patient belongs to one split"),
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"gap": -1}, "gap must be a whole number of at least 0, got -1"),
    ]
    for settings, message in cases:
        with pytest.raises(LightningMMError, match=message):
            MsLesions(**{"split": "test", "root": root, **settings})
    for index in (-1, 5):
        with pytest.raises(IndexError, match="outside of the 5 samples of split 'test'"):
            MsLesions("test", root=root)[index]


def test_the_real_slices(data_root: Path) -> None:
    """215 samples of three patients, as many lesion voxels as the docstring says, standardised."""
    root = str(data_root / "ms_lesions")
    lesions = {}
    for split, patient in (("train", "19"), ("val", "07"), ("test", "26")):
        dataset = MsLesions(split, root=root, size=164)
        samples = [dataset[i] for i in range(len(dataset))]
        lesions[patient] = (len(samples), sum(int(sample["target"].sum()) for sample in samples))
        for name in NAMES:
            values = torch.stack([sample["inputs"][name] for sample in samples])
            brain = values[values != 0].double()
            assert values.isfinite().all()
            assert brain.mean().abs() < 1e-4
            assert (brain.std() - 1).abs() < 1e-4
    assert lesions == {"19": (87, 49769), "07": (74, 1300), "26": (54, 8227)}
    sizes = [len(MsLesions(split, root=root, val_patient=None, size=8)) for split in ("train", "val", "test")]
    assert sizes == [122, 33, 54]
