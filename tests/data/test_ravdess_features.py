"""RavdessFeatures on files generated in the true layout, whole and broken, and on the real ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.cli import main
from lightning_mm.data import ModalityDropoutDataModule, RavdessFeatures
from lightning_mm.data.datasets.ravdess_features import FILES
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import ravdess_features as fake

AUDIO, VIDEO = FILES.values()
SPLITS = ("train", "val", "test")
REAL = os.environ.get("LIGHTNING_MM_DATA")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fake.write(tmp_path / "ravdess_features")


def _values(dataset: RavdessFeatures, name: str) -> torch.Tensor:
    return torch.stack([dataset[i]["inputs"][name] for i in range(len(dataset))])


def _raw(name: str, clips: tuple[str, ...]) -> np.ndarray:
    lines = {line["file"].split(".")[0]: line for line in fake.rows()[FILES[name]]}
    return np.array([[float(lines[clip][one] or "nan") for one in fake.names(name)] for clip in clips])


def test_shapes_targets_and_pairs_follow_the_names_of_the_clips(root: Path) -> None:
    dataset = RavdessFeatures("test", root=str(root))
    assert dataset.actors == tuple(actor for actor in range(19, 25) for _ in range(2))
    for position, clip in enumerate(dataset.ids):
        sample = dataset[position]
        assert {name: tuple(value.shape) for name, value in sample["inputs"].items()} == {
            "audio": (69,),
            "video": (56,),
        }
        assert all(value.dtype == torch.float32 for value in sample["inputs"].values())
        assert sample["target"] == int(clip.split("-")[2]) - 1
    train = RavdessFeatures("train", root=str(root))
    for name in ("audio", "video"):  # the first feature is the actor, in both files
        actors = np.array(train.actors)
        expected = (np.array(dataset.actors) - actors.mean()) / actors.std()
        assert np.allclose(_values(dataset, name)[:, 0].numpy(), expected, atol=1e-5)


def test_no_actor_is_in_two_splits(root: Path) -> None:
    actors = [set(RavdessFeatures(split, root=str(root)).actors) for split in SPLITS]
    assert [sorted(one) for one in actors] == [[*range(1, 15)], [15, 16, 17, 18], [19, 20, 21, 22, 23, 24]]
    fold = {"val_actors": [1], "test_actors": [2, 3]}
    actors = [set(RavdessFeatures(split, root=str(root), **fold).actors) for split in SPLITS]
    assert actors == [set(range(4, 25)), {1}, {2, 3}]


@pytest.mark.parametrize("split", SPLITS)
def test_features_are_standardised_with_what_the_training_clips_have(root: Path, split: str) -> None:
    train, dataset = RavdessFeatures("train", root=str(root)), RavdessFeatures(split, root=str(root))
    for name in ("audio", "video"):
        training, own = _raw(name, train.ids), _raw(name, dataset.ids)
        mean, std = np.nanmean(training, 0), np.nanstd(training, 0)
        std[1] = np.inf  # constant in training: nothing was learned of it, so it stays zero
        expected = np.nan_to_num((own - mean) / std).astype(np.float32)
        assert np.allclose(_values(dataset, name).numpy(), expected, atol=1e-5)


def test_missing_numbers_take_the_mean_and_this_is_said(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = RavdessFeatures("test", root=str(root))
    gaps = np.isnan(_raw("audio", dataset.ids))
    assert 0 < gaps.sum() < gaps[:, 67:].size
    assert _values(dataset, "audio")[torch.from_numpy(gaps)].eq(0).all()
    (remark,) = dataset.remarks.values()
    rows = int(gaps.any(1).sum())
    assert remark == (
        f"audio: {2 * rows} of {12 * 69} numbers are missing in {rows} of 12 clips (cpp_mean in {rows}, cpp_var in "
        f"{rows}); they take the mean of the training clips"
    )
    whole = {file: [{**line, **dict.fromkeys(fake.GAPS, "1")} for line in lines] for file, lines in fake.rows().items()}
    whole[VIDEO] = fake.rows()[VIDEO]
    assert RavdessFeatures("test", root=str(fake.write(root, whole))).remarks == {}


def test_a_modality_with_gaps_may_count_as_absent(root: Path) -> None:
    dataset = RavdessFeatures("test", root=str(root), missing="absent")
    gaps = np.isnan(_raw("audio", dataset.ids)).any(1)
    assert [dataset[i]["inputs"]["audio"] is None for i in range(len(dataset))] == gaps.tolist()
    assert "; audio counts as absent in these clips" in dataset.remarks["audio"]
    data = ModalityDropoutDataModule(
        lambda split: RavdessFeatures(split, root=str(root), missing="absent"), ["audio", "video"], batch_size=12
    )
    (batch,) = list(data.test_dataloader())
    assert batch["observed"].tolist() == [[not gap, True] for gap in gaps.tolist()]
    assert batch["inputs"]["audio"].isfinite().all()


def test_a_clip_of_one_file_alone_lacks_the_other_modality(root: Path) -> None:
    rows = fake.rows()
    lost = next(line for line in rows[VIDEO] if line["actor"] == "20")
    rows[VIDEO].remove(lost)
    with pytest.raises(LightningMMError, match=rf"{VIDEO} lacks 1 of 48 clips of another file, 01-01-.*-20 for"):
        RavdessFeatures("train", root=str(fake.write(root, rows)))
    dataset = RavdessFeatures("test", root=str(root), allow_missing=True)
    assert len(dataset) == 12
    absent = [clip for i, clip in enumerate(dataset.ids) if dataset[i]["inputs"]["video"] is None]
    assert absent == [lost["file"].split(".")[0]]
    assert dataset.template("video", {}).shape == (56,)
    lines = [line for line in rows[AUDIO] if line["file"].split(".")[0] in absent]
    for line in lines:
        line |= dict.fromkeys(fake.names("audio"), "nan")
    with pytest.raises(LightningMMError, match=rf"clip {absent[0]} has numbers of no modality with missing='mean'"):
        RavdessFeatures("test", root=str(fake.write(root, rows)), allow_missing=True)


def test_a_sample_cannot_be_written_through(root: Path) -> None:
    dataset = RavdessFeatures("test", root=str(root))
    before = dataset[0]["inputs"]["video"].clone()
    dataset[0]["inputs"]["video"].zero_()
    assert torch.equal(dataset[0]["inputs"]["video"], before)
    with pytest.raises(IndexError, match="index 12 is outside of the 12 samples of split 'test'"):
        dataset[12]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": "dev"}, "split must be one of ['train', 'val', 'test'], got 'dev'"),
        ({"missing": "zero"}, "missing must be one of ['mean', 'absent'], got 'zero'"),
        ({"val_actors": [25]}, "val_actors: expected actors from 1 to 24, got 25"),
        ({"test_actors": [0]}, "test_actors must be a whole number of at least 1, got 0"),
        ({"val_actors": [3, 4], "test_actors": [4]}, "actors [4] are in val_actors and in test_actors; take one out"),
        ({"val_actors": range(1, 19)}, "no clip is left to train on in"),
    ],
)
def test_wrong_arguments(root: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LightningMMError, match=re.escape(said)):
        RavdessFeatures(**{"split": "train", "root": str(root), **settings})


def _cut(text: str) -> str:
    return text[: text.rindex(",")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "is damaged (not enough values to unpack"),
        (lambda text: text.splitlines()[0], "audio_summary.csv has no clips"),
        (lambda text: text.replace("audio3,", "file,", 1), "expected 69 features and the columns file, emotion"),
        (lambda text: text.replace("emotion", "feeling", 1), "got 70 and file, intensity, actor, gender"),
        (_cut, "line 49: expected 74 cells, got 73"),
        (lambda text: text.replace("5.", "5_0.", 1), "expected a number, or nothing for a missing one, got '"),
        (lambda text: text.replace("0.1,", "many,", 1), "audio1: expected a number, or nothing for a missing one"),
        (lambda text: text.replace("0.1,", "inf,", 1), "audio1: expected a number, or nothing for a missing one"),
        (lambda text: text.replace("01-01-0", "01-01-9", 1), "expected a clip such as 01-01-05-01-01-01-17.wav"),
        (lambda text: text.replace(",male", ",male\n", 1), "expected 74 cells, got"),
        (lambda text: re.sub("(angry|calm|sad)", "happy", text), "and of 'happy' and"),
        (lambda text: text + text.splitlines()[5] + "\n", "is there twice"),
        (lambda text: text.replace("audio3", '"audio3', 1), "is damaged (unexpected end of data)"),
    ],
)
def test_damaged_files_are_named(root: Path, change: Callable[[str], str], said: str) -> None:
    path = root / AUDIO
    path.write_text(change(path.read_text()))
    with pytest.raises(LightningMMError, match=re.escape(said)) as caught:
        RavdessFeatures("train", root=str(root))
    assert str(path) in str(caught.value)


def test_what_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(root.parent))
    assert len(RavdessFeatures("test")) == 12
    (root / VIDEO).unlink()
    with pytest.raises(DataNotFoundError, match=rf"RavdessFeatures: the folder {root} lacks {VIDEO}; set LIGHTNING_MM"):
        RavdessFeatures("test")


def test_remarks_are_logged_once_and_said_by_a_check(
    root: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ModalityDropoutDataModule(lambda split: RavdessFeatures(split, root=str(root)), ["video", "audio"])
    with caplog.at_level("INFO"):
        data.setup("fit")
        data.setup("fit")
    said = [one.message for one in caplog.records if "numbers are missing" in one.message]
    assert [one.partition(": ")[0] for one in said] == ["RavdessFeatures (train)", "RavdessFeatures (val)"], "once each"
    assert data.remarks("test") == list(RavdessFeatures("test", root=str(root)).remarks.values())
    data = ModalityDropoutDataModule(lambda split: RavdessFeatures(split, root=str(root)), ["video"])
    assert data.remarks("test") == [], "of modalities that are not loaded"
    assert main(["data", "ravdess_features", "--check", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.count("numbers are missing") == 3
    assert f"  {RavdessFeatures('val', root=str(root)).remarks['audio']}\n" in out


@pytest.mark.skipif(REAL is None or not Path(str(REAL), "ravdess_features").is_dir(), reason="needs the real files")
def test_the_released_files() -> None:
    splits = {split: RavdessFeatures(split) for split in SPLITS}
    assert {split: len(one) for split, one in splits.items()} == dict(RavdessFeatures.about.counts)
    gaps = [int(re.findall(r"audio: (\d+) of \d+ numbers", one.remarks["audio"])[0]) for one in splits.values()]
    assert gaps == [298, 72, 168]
    assert sum(gaps) == 538
    targets = np.array([splits["test"][i]["target"] for i in range(90)])
    assert np.bincount(targets).tolist() == [6, *[12] * 7]
    absent = RavdessFeatures("test", missing="absent")
    assert sum(absent[i]["inputs"]["audio"] is None for i in range(90)) == 84
