"""UtdMhad on a file generated in the true layout, whole and broken, and on the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import Collate, ModalityDropoutDataModule, UtdMhad
from lightning_mm.data.datasets.image_text.sentences import Sentences
from lightning_mm.data.datasets.utd_mhad import FILE
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.modalities import Modalities
from tests.support.fake import utd_mhad as fake

NAMES = list(UtdMhad.channels)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return fake.write(tmp_path / "utd_mhad", fake.arrays())


def _steps(dataset: UtdMhad, name: str) -> torch.Tensor:
    return torch.cat([dataset[i]["inputs"][name]["values"] for i in range(len(dataset))])


def test_samples_have_the_native_lengths_of_the_file(root: str) -> None:
    arrays = fake.arrays()
    dataset = UtdMhad("test", root=root)
    rows = np.flatnonzero(arrays["subject"] % 2 == 0)
    assert len(dataset) == len(rows) == 32
    for i, row in enumerate(rows):
        sample = dataset[i]
        assert list(sample["inputs"]) == NAMES
        for name, value in sample["inputs"].items():
            length = arrays["skeleton_len" if name == "skeleton" else "inertial_len"][row]
            assert type(value["length"]) is int
            assert value["length"] == length
            assert value["values"].shape == (length, UtdMhad.channels[name])
            assert value["values"].dtype == torch.float32
        assert type(sample["target"]) is int
        assert sample["target"] == arrays["action"][row] - 1
        assert dataset.keys[i] == tuple(arrays[key][row] for key in ("action", "subject", "trial"))
    assert {dataset[i]["target"] for i in range(len(dataset))} == {0, 26}
    assert (len(set(UtdMhad.class_names)), UtdMhad.class_names[0], UtdMhad.class_names[26]) == (
        27,
        "swipe_left",
        "squat",
    )


@pytest.mark.parametrize("val", ["subject", "trial"])
def test_splits_share_nothing_and_test_subjects_are_new(root: str, val: str) -> None:
    splits = {split: UtdMhad(split, root=root, val=val) for split in ("train", "val", "test")}
    keys = {split: set(dataset.keys) for split, dataset in splits.items()}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())) == 64
    subjects = {split: {subject for _, subject, _ in found} for split, found in keys.items()}
    assert subjects["test"] == {2, 4, 6, 8}
    if val == "subject":
        assert (subjects["train"], subjects["val"]) == ({1, 3, 5}, {7})
    else:
        assert subjects["train"] == subjects["val"] == {1, 3, 5, 7}
        assert {trial for _, _, trial in keys["val"]} == {4}
        assert {trial for _, _, trial in keys["train"]} == {1, 2, 3}


@pytest.mark.parametrize("val", ["subject", "trial"])
def test_the_train_split_alone_is_what_is_standardised(root: str, tmp_path: Path, val: str) -> None:
    train = UtdMhad("train", root=root, val=val)
    for name in NAMES:
        values = _steps(train, name).double()
        assert values.mean(0).abs().max() < 1e-4
        assert (values.std(0, correction=0) - 1).abs().max() < 1e-4
    arrays = fake.arrays()
    held_out = np.array(
        [key not in train.keys for key in zip(*(arrays[name].tolist() for name in ("action", "subject", "trial")))]
    )
    arrays["inertial"][np.repeat(held_out, arrays["inertial_len"])] = 1e3
    arrays["skeleton"][np.repeat(held_out, arrays["skeleton_len"]), 5] = 1e3
    changed = UtdMhad("train", root=fake.write(tmp_path / "changed", arrays), val=val)
    assert all(torch.equal(_steps(changed, name), _steps(train, name)) for name in NAMES)


def test_inertial_channels_are_standardised_and_nothing_else(root: str) -> None:
    arrays = fake.arrays()
    train = np.repeat(np.isin(arrays["subject"], (1, 3, 5)), arrays["inertial_len"])
    mean, std = arrays["inertial"][train].mean(0), arrays["inertial"][train].std(0)
    test = np.repeat(arrays["subject"] % 2 == 0, arrays["inertial_len"])
    expected = torch.from_numpy((arrays["inertial"][test] - mean) / std).float()
    dataset = UtdMhad("test", root=root)
    got = torch.cat([_steps(dataset, "accelerometer"), _steps(dataset, "gyroscope")], 1)
    assert torch.allclose(got, expected, atol=1e-5)


def test_the_skeleton_does_not_depend_on_place_and_height(root: str, tmp_path: Path) -> None:
    arrays = fake.arrays()
    place = np.random.default_rng(1).uniform(-5, 5, (len(arrays["action"]), 1, 3))
    height = np.random.default_rng(2).uniform(0.5, 2, (len(arrays["action"]), 1, 1))
    lengths = arrays["skeleton_len"]
    arrays["skeleton"] = arrays["skeleton"] * np.repeat(height, lengths, 0) + np.repeat(place, lengths, 0)
    moved = fake.write(tmp_path / "moved", arrays)
    for split in ("train", "test"):
        first, second = _steps(UtdMhad(split, root=root), "skeleton"), _steps(UtdMhad(split, root=moved), "skeleton")
        assert torch.allclose(first, second, atol=1e-4)


def test_movement_of_the_whole_body_stays(root: str, tmp_path: Path) -> None:
    arrays = fake.arrays()
    arrays["skeleton"] += np.linspace(0, 9, len(arrays["skeleton"]))[:, None, None]
    walked = _steps(UtdMhad("test", root=fake.write(tmp_path / "walked", arrays)), "skeleton")
    assert not torch.allclose(walked, _steps(UtdMhad("test", root=root), "skeleton"), atol=1e-2)


def test_frames_interpolate_every_sequence_to_one_length(root: str) -> None:
    native, resampled = UtdMhad("test", root=root), UtdMhad("test", root=root, frames=6)
    for i in range(len(native)):
        for name in NAMES:
            values, got = native[i]["inputs"][name]["values"], resampled[i]["inputs"][name]
            assert got.shape == (6, UtdMhad.channels[name])
            assert got.dtype == torch.float32
            linear = torch.nn.functional.interpolate(values.T[None], 6, mode="linear", align_corners=True)[0].T
            assert torch.allclose(got, linear, atol=1e-5)
    assert UtdMhad("test", root=root, frames=1)[0]["inputs"]["skeleton"].shape == (1, 60)


def test_stride_averages_the_sensor_and_leaves_the_skeleton(root: str) -> None:
    native, coarse = UtdMhad("test", root=root)[3]["inputs"], UtdMhad("test", root=root, stride=4)[3]["inputs"]
    assert torch.equal(native["skeleton"]["values"], coarse["skeleton"]["values"])
    for name in ("accelerometer", "gyroscope"):
        expected = torch.stack([block.mean(0) for block in native[name]["values"].split(4)])
        assert torch.allclose(coarse[name]["values"], expected, atol=1e-6)
        assert coarse[name]["length"] == len(expected) == -(-native[name]["length"] // 4)
    assert UtdMhad("test", root=root, stride=99)[3]["inputs"]["gyroscope"]["length"] == 1


@pytest.mark.parametrize("frames", [None, 5])
def test_reading_is_pure(root: str, frames: int | None) -> None:
    dataset, expected = UtdMhad("val", root=root, frames=frames), UtdMhad("val", root=root, frames=frames)[1]
    for value in dataset[1]["inputs"].values():
        (value["values"] if frames is None else value).fill_(7)
    again = dataset[1]
    for name in NAMES:
        first, second = again["inputs"][name], expected["inputs"][name]
        assert torch.equal(first if frames else first["values"], second if frames else second["values"])


def test_collate_pads_and_the_data_module_loads(root: str) -> None:
    dataset = UtdMhad("test", root=root)
    samples = [dataset[i] for i in range(3)]
    batch = Collate(Modalities(NAMES))([*samples, {**samples[0], "inputs": {**samples[0]["inputs"], "skeleton": None}}])
    for name in NAMES:
        lengths = [sample["inputs"][name]["length"] for sample in samples]
        value = batch["inputs"][name]
        assert value["length"].dtype == torch.int64
        assert value["length"][:3].tolist() == lengths
        assert value["values"].shape == (4, max(lengths), UtdMhad.channels[name])
        for i, length in enumerate(lengths):
            assert torch.equal(value["values"][i, :length], samples[i]["inputs"][name]["values"])
            assert value["values"][i, length:].eq(0).all()
    assert batch["observed"].tolist() == [[True] * 3] * 3 + [[False, True, True]]
    assert batch["target"].dtype == torch.int64

    data = ModalityDropoutDataModule(lambda split: UtdMhad(split, root=root), NAMES[:2], batch_size=5)
    assert [len(data.train_dataloader()), len(data.val_dataloader()), len(data.test_dataloader())] == [5, 2, 7]
    batch = next(iter(data.train_dataloader()))
    assert batch["inputs"]["accelerometer"]["values"].shape[0] == len(batch["target"]) == 5
    fixed = ModalityDropoutDataModule(lambda split: UtdMhad(split, root=root, frames=4), NAMES, batch_size=5)
    assert next(iter(fixed.train_dataloader()))["inputs"]["skeleton"].shape == (5, 4, 60)


def test_the_folder_comes_from_the_environment(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path))
    assert len(UtdMhad("test")) == 32
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataNotFoundError, match=r"UtdMhad: the folder .*nowhere/utd_mhad does not exist; set LIGHT"):
        UtdMhad("test")
    (Path(root) / FILE).unlink()
    with pytest.raises(DataNotFoundError, match=rf"UtdMhad: the folder .* lacks {FILE}; set LIGHTNING_MM_DATA"):
        UtdMhad("test", root=root)


def _cut(arrays: fake.Arrays) -> None:
    arrays["skeleton"] = arrays["skeleton"][:-1]


def _convert(arrays: fake.Arrays, name: str, kind: type) -> None:
    arrays[name] = arrays[name].astype(kind)


def _poison(arrays: fake.Arrays) -> None:
    arrays["inertial"][3, 3] = np.nan


def _collapse(arrays: fake.Arrays) -> None:
    arrays["skeleton"][: arrays["skeleton_len"][0]] = 1.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a["action"].__setitem__(0, 28), r"label out of range in .*, action: expected 1 to 27, got \[28\]"),
        (lambda a: a["action"].__setitem__(0, 0), r"label out of range in .*, action: expected 1 to 27, got \[0\]"),
        (lambda a: a["subject"].__setitem__(0, 9), r"subject: expected 1 to 8, got \[9\]"),
        (lambda a: a["trial"].__setitem__(0, 5), r"trial: expected 1 to 4, got \[5\]"),
        (lambda a: a.__setitem__("trial", a["trial"][1:]), r"should hold 64 entries of trial, got \(63,\)"),
        (lambda a: a.__setitem__("inertial", a["inertial"][:, :5]), r"inertial of shape \(steps, 6\).* got \(\d+, 5\)"),
        (lambda a: a.pop("subject"), r"lacks the arrays \['subject'\]"),
        (lambda a: a["subject"].fill(2), "has no sequence to train on, so no statistics"),
        (lambda a: _convert(a, "inertial_len", float), r"expected inertial_len to hold integers in 1 .* got float64"),
        (lambda a: a.__setitem__("action", np.array(1)), r"action to hold integers in 1 dimensions, got .* \(\);"),
        (lambda a: _convert(a, "skeleton", str), r"expected skeleton to hold integers or floats in 3 .* got <U"),
        (_cut, r"skeleton_len must be positive and add up to the \d+ steps of skeleton"),
        (_poison, "inertial holds values that are not finite"),
        (_collapse, "hip and shoulder centre fall together in sequence 0"),
    ],
)
def test_a_file_that_is_not_right(tmp_path: Path, spoil: Callable[[fake.Arrays], Any], message: str) -> None:
    arrays = fake.arrays()
    spoil(arrays)
    with pytest.raises(LightningMMError, match=message):
        UtdMhad("test", root=fake.write(tmp_path, arrays))


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(root: str, keep: float) -> None:
    path = Path(root) / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*\); copy it again"):
        UtdMhad("test", root=root)


def test_bad_arguments(root: str) -> None:
    for settings, message in [
        ({"split": "dev"}, r"split must be one of \['train', 'val', 'test'\], got 'dev'"),
        ({"val": "person"}, r"val must be one of \['subject', 'trial'\], got 'person'"),
        ({"frames": 0}, r"frames must be a whole number of at least 1, got 0"),
        ({"stride": 0}, "stride must be a whole number of at least 1, got 0"),
    ]:
        arguments: dict[str, Any] = {"split": "test", "root": root, **settings}
        with pytest.raises(LightningMMError, match=message):
            UtdMhad(**arguments)
    for index in (-1, 32):
        with pytest.raises(IndexError, match="outside of the 32 samples of split 'test'"):
            UtdMhad("test", root=root)[index]


def test_the_real_sequences(data_root: Path) -> None:
    """861 sequences; all classes in all splits; the train split is standardised, the others nearly are."""
    root = str(data_root / "utd_mhad")
    splits = {split: UtdMhad(split, root=root) for split in ("train", "val", "test")}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 323, "val": 108, "test": 430}
    by_trial = [len(UtdMhad(split, root=root, val="trial")) for split in ("train", "val")]
    assert by_trial == [324, 107]
    for split, dataset in splits.items():
        assert {dataset[i]["target"] for i in range(len(dataset))} == set(range(27))
        for name in NAMES:
            values = _steps(dataset, name)
            assert values.isfinite().all()
            assert values.mean().abs() < (1e-3 if split == "train" else 0.15)
            assert (values.std() - 1).abs() < (1e-2 if split == "train" else 0.25)
    lengths = {name: [splits["test"][i]["inputs"][name]["length"] for i in range(430)] for name in NAMES}
    assert lengths["accelerometer"] == lengths["gyroscope"]
    assert (min(lengths["skeleton"]) >= 41, max(lengths["skeleton"]) <= 125) == (True, True)
    assert (min(lengths["gyroscope"]) >= 107, max(lengths["gyroscope"]) <= 326) == (True, True)


def test_the_target_may_be_the_sentence_of_the_action(root: str) -> None:
    sentences = UtdMhad.sentences
    assert (len(sentences.texts), sentences.tokens, sentences.length) == (len(UtdMhad.class_names), 55, 6)
    words = {number: word for word, number in sentences.vocabulary.items()}
    plain, told = UtdMhad("test", root=root), UtdMhad("test", root=root, captions=True)
    for index in (0, len(told) - 1):
        target = told[index]["target"]
        assert target["caption"] == plain[index]["target"]
        ids, mask = target["text"]["input_ids"], target["text"]["attention_mask"]
        assert (ids > 0).long().tolist() == mask.tolist()
        assert " ".join(words[one] for one in ids.tolist() if one) == sentences.texts[target["caption"]]
    data = ModalityDropoutDataModule(lambda split: UtdMhad(split, root=root, captions=True), NAMES, batch_size=3)
    data.setup("fit")
    target = next(iter(data.train_dataloader()))["target"]
    assert (target["caption"].dtype, target["text"]["input_ids"].shape) == (torch.int64, (3, 6))


@pytest.mark.parametrize("texts", [[], ["sit", "?"], ["Sit down", "sit, down"]])
def test_sentences_that_cannot_be_told_apart(texts: list[str]) -> None:
    with pytest.raises(LightningMMError, match="expected sentences of different words"):
        Sentences(texts)
