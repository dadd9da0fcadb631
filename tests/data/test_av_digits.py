"""AVDigits on files generated in the true layout, whole and broken, and on the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import AVDigits, ModalityDropoutDataModule
from lightning_mm.data.datasets.av_digits import IMAGES, LABELS, RECORDINGS, SPEAKERS, SPLITS, _mel_bands, log_mel
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import av_digits as fake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fake.write(tmp_path / "fsdd_mnist")


def _digit(recording: str) -> int:
    return int(recording.split("_")[0])


def _equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first["inputs"][name], second["inputs"][name]) for name in AVDigits.channels)


def test_shapes_targets_and_the_label_that_pairs(root: Path) -> None:
    dataset = AVDigits("test", root=str(root))
    assert len(dataset) == len(dataset.recordings) == len(dataset.image_ids) == 120
    for position in range(0, 120, 7):
        sample = dataset[position]
        image, audio = sample["inputs"]["image"], sample["inputs"]["audio"]
        assert (image.shape, audio.shape) == ((1, 28, 28), (1, 32, 48))
        assert image.dtype == audio.dtype == torch.float32
        assert type(sample["target"]) is int
        back = (image[0, 0, :3] * 79.14 + 33.76).round().long().tolist()  # what fake.write hid in the image
        assert back[0] == sample["target"] == _digit(dataset.recordings[position])
        assert back[1] * 100 + back[2] == dataset.image_ids[position]
    assert AVDigits.class_names[sample["target"]] == dataset.recordings[position][0]


def test_official_split_of_the_recordings(root: Path) -> None:
    splits = {split: AVDigits(split, root=str(root)) for split in SPLITS}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 180, "val": 120, "test": 120}
    expected = {"train": {"10", "11", "49"}, "val": {"5", "9"}, "test": {"0", "4"}}
    for split, dataset in splits.items():
        assert {name.split("_")[2] for name in dataset.recordings} == expected[split]
        assert len(set(dataset.recordings)) == len(dataset)


def test_unseen_speakers(root: Path) -> None:
    splits = {split: AVDigits(split, root=str(root), speakers="unseen") for split in SPLITS}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 280, "val": 70, "test": 70}
    heard = {split: {name.split("_")[1] for name in dataset.recordings} for split, dataset in splits.items()}
    assert heard == {"train": set(SPEAKERS[:4]), "val": {"theo"}, "test": {"yweweler"}}


@pytest.mark.parametrize("speakers", ["all", "unseen"])
def test_splits_share_no_image_whatever_the_seed(root: Path, speakers: str) -> None:
    seen: dict[str, set[int]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in (0, 1, 5):
            dataset = AVDigits(split, root=str(root), speakers=speakers, pairs=4, eval_pairs=4, seed=seed)
            seen[split] |= set(dataset.image_ids.tolist())
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]


def test_images_come_once_until_the_pool_is_used_up(root: Path) -> None:
    dataset = AVDigits("train", root=str(root), pairs=3)
    for digit in range(10):
        ids = [int(i) for i, name in zip(dataset.image_ids, dataset.recordings) if _digit(name) == digit]
        pool = len(set(ids))
        assert 15 < pool < 35  # of 40 images of a digit about 24 are in the pool of training
        assert len(set(ids[:pool])) == pool


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_sample_is_a_pure_function_of_seed_split_and_index(root: Path, noise: float) -> None:
    first, again = (AVDigits("train", root=str(root), noise=noise, seed=3) for _ in range(2))
    for position in (5, 0, 70):
        sample = again[position]
        assert _equal(first[position], sample)
        sample["inputs"]["audio"].zero_()
        sample["inputs"]["image"].zero_()
        assert _equal(first[position], again[position])
    other = AVDigits("train", root=str(root), noise=noise, seed=4)
    assert other.recordings == first.recordings
    assert (other.image_ids != first.image_ids).mean() > 0.5
    assert torch.equal(other[5]["inputs"]["audio"], first[5]["inputs"]["audio"]) == (noise == 0)


def test_noise_has_its_standard_deviation_and_differs_between_samples(root: Path) -> None:
    clean, noisy = (AVDigits("val", root=str(root), noise=noise, eval_pairs=2) for noise in (0.0, 2.0))
    added = {
        name: torch.stack([noisy[i]["inputs"][name] - clean[i]["inputs"][name] for i in range(len(clean))])
        for name in AVDigits.channels
    }
    for values in added.values():
        assert values.mean().abs() < 0.05
        assert abs(values.std() - 2) < 0.05
        flat = values.flatten(1)
        correlation = torch.corrcoef(flat) - torch.eye(len(flat))
        assert correlation.abs().max() < 0.3  # also between the two pairs of one recording
    assert noisy.recordings[0] == noisy.recordings[120]


def test_few_samples_are_balanced_and_nested(root: Path) -> None:
    full = AVDigits("train", root=str(root), noise=0.5)
    for length in (1, 10, 34, 180):
        few = AVDigits("train", root=str(root), noise=0.5, train_length=length, pairs=2)
        assert len(few) == 2 * length
        assert few.recordings == full.recordings[:length] * 2
        counts = np.bincount([_digit(name) for name in few.recordings[:length]], minlength=10)
        assert counts.max() - counts.min() <= 1
        assert all(_equal(few[i], full[i]) for i in range(0, length, 5))
    assert len(AVDigits("val", root=str(root), train_length=10)) == 120
    assert len({name.split("_")[1] for name in full.recordings[:34]}) == len(SPEAKERS)


def test_more_pairs_repeat_the_recordings_with_other_images(root: Path) -> None:
    one, three = (AVDigits("test", root=str(root), eval_pairs=count) for count in (1, 3))
    assert three.recordings == one.recordings * 3
    assert np.array_equal(three.image_ids[:120], one.image_ids)
    assert len(AVDigits("test", root=str(root), pairs=5)) == 120
    assert len(AVDigits("train", root=str(root), pairs=2)) == 360
    first, again = three[7], three[127]
    assert torch.equal(first["inputs"]["audio"], again["inputs"]["audio"])
    assert first["target"] == again["target"]


def test_the_spectrogram_against_a_slow_one() -> None:
    """A recording of exactly 6272 samples is neither padded nor cut."""
    wave = np.random.default_rng(0).normal(0, 500, 6272).astype(np.int16)
    scaled = wave / np.sqrt(np.mean(wave.astype(float) ** 2))
    window = np.hanning(257)[:256]
    slow = np.empty((32, 48))
    for frame in range(48):
        spectrum = np.fft.rfft(window * scaled[frame * 128 : frame * 128 + 256])
        slow[:, frame] = np.log(_mel_bands() @ (np.abs(spectrum) ** 2 / np.sum(window**2)) + 1e-3)
    assert np.allclose(log_mel([wave])[0].numpy(), slow, atol=1e-3)
    assert abs(np.exp(slow).mean() - 1) < 0.05  # white sound of unit RMS has 1 in every band


def test_a_tone_is_loudest_in_its_band_and_no_band_is_empty() -> None:
    bands = _mel_bands()
    assert np.allclose(bands.sum(1), 1)
    centres = bands @ (np.arange(129) * 31.25)
    assert (np.diff(centres) > 0).all()
    for band in (3, 15, 28):
        tone = 2000 * np.sin(2 * np.pi * centres[band] * np.arange(6272) / 8000)
        assert int(log_mel([tone.astype(np.int16)])[0].mean(1).argmax()) == band


def test_level_and_length_of_a_recording() -> None:
    rng = np.random.default_rng(1)
    short = rng.normal(0, 1000, 2000).astype(np.int16)
    quiet, loud = log_mel([short, (8 * short).astype(np.int16)])
    assert torch.allclose(quiet, loud, atol=1e-3)  # the level of the microphone is gone
    speech = quiet.mean(0) > -6
    frames = torch.nonzero(speech).flatten()
    assert abs(float(frames.float().mean()) - 23.5) < 1  # in the middle
    assert 14 < len(frames) < 18  # 2000 samples are 15.6 hops
    long = np.concatenate([rng.normal(0, 5, 9000), rng.normal(0, 1000, 6272), rng.normal(0, 5, 4000)]).astype(np.int16)
    assert (log_mel([long])[0].mean(0) > -2).all()  # the loud part alone
    silent = log_mel([np.zeros(100, dtype=np.int16), np.zeros(9000, dtype=np.int16)])
    assert torch.allclose(silent, torch.tensor(1e-3).log())


def test_through_the_data_module(root: Path) -> None:
    data = ModalityDropoutDataModule(
        lambda split: AVDigits(split, root=str(root), noise=0.1), ["image", "audio"], batch_size=7
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["inputs"]["image"].shape == (7, 1, 28, 28)
    assert batch["inputs"]["audio"].shape == (7, 1, 32, 48)
    assert batch["target"].shape == (7,)
    assert batch["target"].dtype == torch.int64
    assert batch["available"].any(1).all()
    assert not batch["available"].all()
    assert sum(len(other["target"]) for other in data.test_dataloader()) == 120


def test_root_from_the_environment_and_what_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(root.parent))
    assert len(AVDigits("test")) == 120
    (root / LABELS).unlink()
    with pytest.raises(DataNotFoundError, match=rf"AVDigits: the folder {root} lacks {LABELS}; set LIGHTNING_MM_DATA"):
        AVDigits("test")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(root / "nowhere"))
    with pytest.raises(DataNotFoundError, match=rf"nowhere/fsdd_mnist does not exist; .* folder that holds {IMAGES}"):
        AVDigits("test")
    monkeypatch.delenv("LIGHTNING_MM_DATA")
    with pytest.raises(DataNotFoundError, match="AVDigits: no data folder is set; set LIGHTNING_MM_DATA to the folder"):
        AVDigits("test")


@pytest.mark.parametrize("name", [IMAGES, LABELS, RECORDINGS])
@pytest.mark.parametrize("keep", [0, 3, 12, 0.5, 0.99])
def test_a_truncated_file_is_named(root: Path, name: str, keep: float) -> None:
    path = root / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*\); copy it again from the source"):
        AVDigits("test", root=str(root))


def test_files_that_hold_something_else(root: Path) -> None:
    images, labels = root / IMAGES, root / LABELS
    whole = labels.read_bytes()
    labels.write_bytes(images.read_bytes())
    with pytest.raises(
        LightningMMError, match=rf"{labels} is damaged \(header 00000803.*expected an idx file of bytes"
    ):
        AVDigits("test", root=str(root))
    fake.write_idx(labels, np.full(fake.COUNT, 10))
    with pytest.raises(LightningMMError, match=rf"label out of range in {labels}: expected .* 0 to 9, got \[10\]"):
        AVDigits("test", root=str(root))
    fake.write_idx(labels, np.zeros(fake.COUNT - 1))
    with pytest.raises(LightningMMError, match=r"images \(400, 28, 28\) and labels \(399,\)"):
        AVDigits("test", root=str(root))
    fake.write_idx(labels, np.zeros(fake.COUNT))
    with pytest.raises(LightningMMError, match=f"{LABELS} has no image of digit 1 for split 'test'"):
        AVDigits("test", root=str(root))
    labels.write_bytes(whole)
    fake.write_idx(images, np.zeros((fake.COUNT, 8, 8)))
    with pytest.raises(LightningMMError, match=r"expected as many images of 28 x 28 pixels as labels"):
        AVDigits("test", root=str(root))


def test_recordings_that_hold_something_else(root: Path) -> None:
    arrays, path = fake.arrays(), root / RECORDINGS
    for changed, message in [
        ({"digit": arrays["digit"] - 1}, rf"label out of range in {path}: expected a digit, 0 to 9, got \[-1\]"),
        ({"sample_rate": np.array(16000)}, "should hold int16 samples at 8000 Hz, got int16 at 16000 Hz"),
        ({"samples": arrays["samples"] / 2}, "should hold int16 samples at 8000 Hz, got float64 at 8000 Hz"),
        ({"samples": arrays["samples"][1:]}, rf"{path} is damaged \(420 lengths of"),
        ({"index": arrays["index"][1:]}, r"but \{'digit': 420, 'speaker': 420, 'index': 419\}"),
        ({"sample_rate": np.array([8000, 8000])}, rf"{path}: expected sample_rate to hold integers in 0 dimensions"),
        ({"digit": arrays["digit"].astype(str)}, r"expected digit to hold integers in 1 dimensions, got <U"),
        ({"digit": np.array(3)}, r"expected digit to hold integers in 1 dimensions, got int64 of shape \(\)"),
        (
            {"length": arrays["length"].astype(float)},
            r"length to hold integers in 1 dimensions, got float64 .* \(420,\)",
        ),
        ({"index": arrays["index"] + 50}, "has no recording for split 'test' with speakers='all'"),
    ]:
        np.savez(path, **{**arrays, **changed})
        with pytest.raises(LightningMMError, match=message):
            AVDigits("test", root=str(root))
    np.savez(path, **{name: values for name, values in arrays.items() if name != "length"})
    with pytest.raises(LightningMMError, match=rf"{path} lacks the arrays \['length'\]; expected"):
        AVDigits("test", root=str(root))


def test_bad_arguments(root: Path) -> None:
    for settings, message in [
        ({"split": "dev"}, r"split must be one of \['train', 'val', 'test'\], got 'dev'"),
        ({"speakers": "some"}, r"speakers must be one of \['all', 'unseen'\], got 'some'"),
        ({"noise": -0.1}, r"noise must be 0 or more, got -0\.1"),
        ({"noise": float("nan")}, "noise must be 0 or more, got nan"),
        ({"pairs": 0}, "AVDigits: pairs must be a whole number of at least 1, got 0"),
        ({"eval_pairs": -1}, "eval_pairs must be a whole number of at least 1, got -1"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"train_length": 0}, "train_length must be from 1 to the 180 recordings, got 0"),
        ({"train_length": 181}, "train_length must be from 1 to the 180 recordings, got 181"),
    ]:
        with pytest.raises(LightningMMError, match=message):
            AVDigits(**{"split": "train", "root": str(root), **settings})
    for index in (-1, 120):
        with pytest.raises(IndexError, match=f"index {index} is outside of the 120 samples of split 'val'"):
            AVDigits("val", root=str(root))[index]


def test_the_real_files(data_root: Path) -> None:
    """2400, 300 and 300 recordings; pools of about 6000, 2000, 2000 images; inputs of zero mean and unit deviation."""
    folder = str(data_root / "fsdd_mnist")
    train = AVDigits("train", root=folder)
    assert (len(train), len(set(train.image_ids.tolist()))) == (2400, 2400)
    val, test = (AVDigits(split, root=folder, eval_pairs=4) for split in ("val", "test"))
    assert (len(val), len(test)) == (1200, 1200)
    assert len(set(test.recordings)) == 300
    for dataset, mean, deviation in ((train, 0.02, 0.02), (val, 0.1, 0.1), (test, 0.1, 0.1)):
        samples = [dataset[i] for i in range(len(dataset))]
        assert np.bincount([sample["target"] for sample in samples]).tolist() == [len(dataset) // 10] * 10
        for name in AVDigits.channels:
            values = torch.stack([sample["inputs"][name] for sample in samples])
            assert values.isfinite().all()
            assert values.mean().abs() < mean
            assert abs(values.std() - 1) < deviation
    unseen = [len(AVDigits(split, root=folder, speakers="unseen")) for split in SPLITS]
    assert unseen == [2000, 500, 500]
    heard = AVDigits("train", root=folder, speakers="unseen")
    sounds = torch.stack([heard[i]["inputs"]["audio"] for i in range(len(heard))])
    assert sounds.mean().abs() < 0.002, "statistics of the training speakers alone"
    assert abs(sounds.std() - 1) < 0.002
