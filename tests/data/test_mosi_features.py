"""MosiFeatures on files generated in the true layout, whole and broken, and on the real file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import ModalityDropoutDataModule, MosiFeatures
from lightning_mm.data.datasets.mosi_features import FEATURES, MODALITIES
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import mosi_features as fake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fake.write(tmp_path / "mosi_bclstm", fake.arrays())


def _inputs(dataset: MosiFeatures, name: str) -> torch.Tensor:
    return torch.stack([dataset[i]["inputs"][name] for i in range(len(dataset))])


def test_shapes_and_targets_follow_the_file(root: Path) -> None:
    dataset = MosiFeatures("test", root=str(root))
    assert dataset.ids == tuple(f"t_{video}_{number}" for video in range(3) for number in sorted(fake.NUMBERS))
    assert dataset.videos == ("t_0",) * 4 + ("t_1",) * 4 + ("t_2",) * 4
    for position, name in enumerate(dataset.ids):
        sample = dataset[position]
        assert {key: tuple(value.shape) for key, value in sample["inputs"].items()} == {
            "text": (100,),
            "audio": (73,),
            "video": (100,),
        }
        assert all(value.dtype == torch.float32 for value in sample["inputs"].values())
        assert type(sample["target"]) is int
        assert sample["target"] == int(not name.endswith("_30"))  # the rows were sorted together with the ids
    assert MosiFeatures.class_names == ("negative", "positive")


def test_standardised_with_the_training_part_alone(root: Path) -> None:
    train, val, test = (MosiFeatures(split, root=str(root)) for split in ("train", "val", "test"))
    arrays = fake.arrays()
    rows = np.isin(arrays["train_utt_id"], train.ids)
    assert rows.sum() == len(train)
    for name in MODALITIES:
        values = _inputs(train, name)
        varying = [i for i in range(values.shape[1]) if i != 1]
        assert values[:, varying].mean(0).abs().max() < 1e-5
        assert (values[:, varying].std(0, correction=0) - 1).abs().max() < 1e-5
        mean, std = arrays[f"train_{name}"][rows].mean(0), arrays[f"train_{name}"][rows].std(0)
        ids = arrays["test_utt_id"].tolist()
        raw = arrays[f"test_{name}"][[ids.index(one) for one in test.ids]]
        expected = ((raw - mean) / std)[:, varying].astype(np.float32)
        assert np.allclose(_inputs(test, name)[:, varying].numpy(), expected, atol=1e-5)
        for dataset in (train, val, test):  # constant in training: nothing was learned of it, so it stays zero
            assert _inputs(dataset, name)[:, 1].eq(0).all()


def test_validation_is_split_by_video_and_by_its_name_alone(root: Path, tmp_path: Path) -> None:
    train, val = (MosiFeatures(split, root=str(root)) for split in ("train", "val"))
    assert not set(train.videos) & set(val.videos)
    assert sorted(set(train.videos) | set(val.videos)) == [f"a_{i:02d}" for i in range(40)]
    assert 0 < len(val) < len(train)
    more = MosiFeatures("val", root=str(fake.write(tmp_path / "more", fake.arrays(100))))
    assert {video for video in more.videos if int(video[2:]) < 40} == set(val.videos)
    assert set(val.videos) <= set(MosiFeatures("val", root=str(root), val_fraction=0.5).videos)
    assert len(MosiFeatures("val", root=str(root), val_fraction=0.0)) == 0
    everything = MosiFeatures("test", root=str(root), val_fraction=0.0)
    assert everything.ids == MosiFeatures("test", root=str(root)).ids
    assert not torch.equal(everything[0]["inputs"]["text"], MosiFeatures("test", root=str(root))[0]["inputs"]["text"])


@pytest.mark.parametrize("context", [1, 2, 9])
def test_context_is_what_was_said_before_in_the_same_video(root: Path, context: int) -> None:
    alone, dataset = MosiFeatures("test", root=str(root)), MosiFeatures("test", root=str(root), context=context)
    assert dataset.ids == alone.ids
    for position in range(len(dataset)):
        sample = dataset[position]
        length = min(position % 4, context) + 1  # four utterances a video
        assert sample["target"] == alone[position]["target"]
        for name, value in sample["inputs"].items():
            assert value["length"] == length
            rows = [alone[position - back]["inputs"][name] for back in reversed(range(length))]
            assert torch.equal(value["values"], torch.stack(rows))


def test_a_sample_is_pure_and_cannot_be_written_through(root: Path) -> None:
    for context in (0, 2):
        dataset, other = (MosiFeatures("train", root=str(root), context=context) for _ in range(2))
        for position in (7, 0, 7):
            first, again = dataset[position], other[position]
            for name in MODALITIES:
                values = [one["inputs"][name]["values"] if context else one["inputs"][name] for one in (first, again)]
                assert torch.equal(*values)
                values[0].zero_()


def test_majority(root: Path) -> None:
    assert MosiFeatures("test", root=str(root)).majority() == 0.75
    flipped = {**fake.arrays(), "test_label": 1 - fake.arrays()["test_label"]}
    assert MosiFeatures("test", root=str(fake.write(root, flipped))).majority() == 0.75
    with pytest.raises(LightningMMError, match="split 'val' is empty; there is no most frequent label"):
        MosiFeatures("val", root=str(root), val_fraction=0.0).majority()


def test_padded_through_the_data_module(root: Path) -> None:
    data = ModalityDropoutDataModule(
        lambda split: MosiFeatures(split, root=str(root), context=2), list(MODALITIES), batch_size=5
    )
    batches = list(data.test_dataloader())
    assert [len(batch["target"]) for batch in batches] == [5, 5, 2]
    dataset = MosiFeatures("test", root=str(root), context=2)
    for batch in batches:
        assert batch["target"].dtype == torch.int64
        for name, width in MosiFeatures.channels.items():
            values, lengths = batch["inputs"][name]["values"], batch["inputs"][name]["length"]
            assert values.shape == (len(lengths), int(lengths.max()), width)
            for row, (index, length) in enumerate(zip(batch["index"].tolist(), lengths.tolist())):
                assert torch.equal(values[row, :length], dataset[index]["inputs"][name]["values"])
                assert values[row, length:].eq(0).all()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["available"].any(1).all()


def test_root_from_the_environment_and_what_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(root.parent))
    assert len(MosiFeatures("test")) == 12
    (root / FEATURES).unlink()
    with pytest.raises(DataNotFoundError, match=rf"MosiFeatures: the folder {root} lacks {FEATURES}; set LIGHTNING_MM"):
        MosiFeatures("test")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(root / "nowhere"))
    with pytest.raises(DataNotFoundError, match=r"nowhere/mosi_bclstm does not exist; set LIGHTNING_MM_DATA"):
        MosiFeatures("test")
    monkeypatch.delenv("LIGHTNING_MM_DATA")
    with pytest.raises(DataNotFoundError, match=r"no data folder is set; set LIGHTNING_MM_DATA .* holds mosi_bclstm/"):
        MosiFeatures("test")


@pytest.mark.parametrize("keep", [0, 3, 60, 0.5, 0.99])
def test_a_truncated_file_is_named(root: Path, keep: float) -> None:
    path = root / FEATURES
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*\); copy it again from the source"):
        MosiFeatures("test", root=str(root))


def test_a_byte_that_flipped_is_noticed(root: Path) -> None:
    path = root / FEATURES
    data = bytearray(path.read_bytes())
    data[data.index(b"train_text.npy") + 5000] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*CRC.*\); copy it again"):
        MosiFeatures("train", root=str(root))


def test_a_header_that_does_not_end_is_noticed(root: Path) -> None:
    path = root / FEATURES
    data = path.read_bytes()
    begin = data.index(b"train_utt_id.npy")
    path.write_bytes(data[:begin] + data[begin:].replace(b"}", b" ", 1))
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*\); copy it again"):
        MosiFeatures("train", root=str(root))


def test_a_file_that_holds_something_else(root: Path) -> None:
    arrays, path = fake.arrays(), root / FEATURES

    def changed(name: str, position: Any, value: Any) -> dict[str, np.ndarray]:
        copy = arrays[name].copy()
        copy[position] = value
        return {**arrays, name: copy}

    for content, message in [
        (changed("train_label", 3, 2), rf"label out of range in {path}, train_label: expected 0 .*, got \[2\]"),
        (changed("train_audio", (4, 70), np.nan), "train_audio is not finite for utterance a_01_10"),
        (
            changed("train_utt_id", 0, "b_00_1"),
            r"train_utt_id: expected <video>_<number> with video 'a_00', got 'b_00_1'",
        ),
        (changed("train_utt_id", 0, "a_00_x"), "expected <video>_<number> with video 'a_00', got 'a_00_x'"),
        ({**arrays, "train_text": arrays["train_text"][:, 1:]}, r"train_text of shape \(160, 100\), got \(160, 99\)"),
        ({**arrays, "train_label": arrays["train_label"][1:]}, r"train_label of shape \(160,\), got \(159,\)"),
        (
            {**arrays, "train_utt_id": np.array("a_00_1")},
            rf"{path}: expected train_utt_id to hold strings in 1 dimensions, got <U6 of shape \(\); copy it again",
        ),
        ({**arrays, "train_audio": arrays["train_audio"].astype(str)}, "train_audio to hold integers or floats in 2"),
        ({**arrays, "train_label": np.full(160, "1")}, "train_label to hold booleans or integers in 1 .* got <U1"),
        ({"train_text": arrays["train_text"]}, rf"{path} lacks the arrays \['train_utt_id', 'train_video_id',"),
    ]:
        fake.write(root, content)
        with pytest.raises(LightningMMError, match=message):
            MosiFeatures("train", root=str(root))
    fake.write(root, {**arrays, "train_utt_id": arrays["train_utt_id"].astype(object)})
    with pytest.raises(LightningMMError, match=r"is damaged \(Object arrays cannot be loaded"):
        MosiFeatures("train", root=str(root))
    np.save(root / "one.npy", np.zeros(3))
    (root / "one.npy").rename(path)
    with pytest.raises(LightningMMError, match=r"is damaged \(one array, not an archive of arrays\)"):
        MosiFeatures("train", root=str(root))


def test_bad_arguments(root: Path) -> None:
    for settings, message in [
        ({"split": "dev"}, r"split must be one of \['train', 'val', 'test'\], got 'dev'"),
        ({"context": -1}, "context must be a whole number of at least 0, got -1"),
        ({"val_fraction": 1.0}, r"val_fraction must be at least 0 and below 1, got 1\.0"),
        ({"val_fraction": 0.9999}, r"val_fraction=0\.9999 leaves no training video of 40; take a smaller one"),
    ]:
        with pytest.raises(LightningMMError, match=message):
            MosiFeatures(**{"split": "train", "root": str(root), **settings})
    for index in (-1, 12):
        with pytest.raises(IndexError, match=f"index {index} is outside of the 12 samples of split 'test'"):
            MosiFeatures("test", root=str(root))[index]


def test_the_real_file(data_root: Path) -> None:
    """1179 + 268 + 752 utterances of 49 + 13 + 31 videos; the shares of the labels are those of the docstring."""
    splits = {split: MosiFeatures(split, root=str(data_root / "mosi_bclstm")) for split in ("train", "val", "test")}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 1179, "val": 268, "test": 752}
    videos = {split: set(dataset.videos) for split, dataset in splits.items()}
    assert {split: len(names) for split, names in videos.items()} == {"train": 49, "val": 13, "test": 31}
    assert len(set.union(*videos.values())) == 93
    assert [round(dataset.majority(), 3) for dataset in splits.values()] == [0.522, 0.545, 0.621]
    for split, dataset in splits.items():
        for name in MODALITIES:
            values = _inputs(dataset, name)
            assert values.isfinite().all()
            varying = _inputs(splits["train"], name).std(0) > 0
            values = values[:, varying]
            assert values.mean().abs() < (1e-4 if split == "train" else 0.3)
            assert abs(values.std() - 1) < (1e-2 if split == "train" else 0.5)
            assert values.abs().max() < 60
