"""NTU RGB+D on files generated in the true layout, whole and broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mm.data import ModalityDropoutDataModule, NtuRgbd
from lightning_mm.data.datasets.ntu_rgbd import spread
from lightning_mm.data.readers.jet import JET, linear_levels, wrapped_levels
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import ntu_rgbd as fake

SMALL: dict[str, Any] = {"frames": 4, "size": 16, "resize": (24, 18)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole, for tests that only read."""
    path = tmp_path_factory.mktemp("ntu")
    fake.write(path)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Test recordings of CS, for tests that break something."""
    lists = fake.all_lists()
    fake.write(tmp_path, {"@CS/train": lists["@CS/train"][:3], "@CS/valid": lists["@CS/valid"][:3]})
    return tmp_path


def open_(root: Path, split: str = "test", **settings: Any) -> NtuRgbd:
    return NtuRgbd(split, root=str(root), **{**SMALL, **settings})


def test_shapes_frames_and_normalisation(root: Path) -> None:
    dataset = open_(root)
    sample = dataset[0]
    assert {name: tuple(value.shape) for name, value in sample["inputs"].items()} == {
        "rgb": (3, 4, 16, 16),
        "depth": (3, 4, 16, 16),
    }
    assert {name: value.shape[0] for name, value in sample["inputs"].items()} == NtuRgbd.channels
    assert all(value.dtype == torch.float32 and value.is_contiguous() for value in sample["inputs"].values())
    assert sample["target"] == 0
    assert dataset[5]["target"] == 59
    recording = dataset.recordings[0]
    assert recording == (fake.name_of(3, 1), 20, 0, 3)
    assert spread(20, 4).tolist() == [2, 7, 12, 17]
    for step, place in enumerate([2, 7, 12, 17]):
        file = recording.folder(root, "rgb") / f"{place + 1:06d}.jpg"
        # a frame of 24 x 18 pixels is brought to its own size, and a square of 16 cut out of the middle
        expected = np.asarray(Image.open(file), dtype=np.float32)[1:17, 4:20]
        clip = sample["inputs"]["rgb"][:, step].permute(1, 2, 0) * 128 + 127.5
        torch.testing.assert_close(clip, torch.from_numpy(expected))


def test_depth_is_shown_in_colours(root: Path) -> None:
    recording = open_(root).recordings[0]
    file = recording.folder(root, "depth") / "MDepth-00000003.png"
    raw = np.asarray(Image.open(file))
    assert raw.dtype == np.uint16
    # the folder's own size, so that nothing is resized
    plain = open_(root, resize=(22, 18))[0]["inputs"]["depth"][:, 0].permute(1, 2, 0) * 128 + 127.5
    levels = np.rint(np.minimum(raw / 8000, 1) * 255).astype(int)[1:17, 3:19]
    torch.testing.assert_close(plain, torch.from_numpy(JET[levels].astype(np.float32)))
    assert plain[0, 0].tolist() == [0, 0, 128], "what was masked is dark blue: red, green, blue"
    wrapped = open_(root, resize=(22, 18), depth_levels="wrapped")[0]["inputs"]["depth"][:, 0].permute(1, 2, 0)
    levels = (-raw.astype(int) % 256)[1:17, 3:19]
    torch.testing.assert_close(wrapped * 128 + 127.5, torch.from_numpy(JET[levels].astype(np.float32)))


def test_depth_of_8_bits_is_taken_as_it_is(own: Path) -> None:
    level = np.arange(22, dtype=np.uint8)[None].repeat(18, 0)
    for path in open_(own).recordings[0].folder(own, "depth").iterdir():
        fake.save(path, level)
    clip = open_(own, resize=(22, 18))[0]["inputs"]["depth"][:, 0].permute(1, 2, 0) * 128 + 127.5
    torch.testing.assert_close(clip, torch.from_numpy(JET[level[1:17, 3:19]].astype(np.float32)))


def test_jet() -> None:
    assert JET.shape == (256, 3)
    # corners of the definition: blue is full at 3/8, green from 3/8 to 5/8, red from 5/8 on
    for level, colour in {0: (0, 0, 128), 96: (2, 255, 254), 127: (126, 255, 130), 255: (128, 0, 0)}.items():
        assert np.abs(JET[level].astype(int) - colour).max() <= 1
    assert np.abs(np.diff(JET.astype(int), axis=0)).max() <= 4 + 1
    assert (JET[::-1, ::-1] == JET).all(), "the same from both ends, with red and blue exchanged"
    depth = np.array([0, 1, 300, 8000, 65535], dtype=np.uint16)
    assert linear_levels(depth, 8000).tolist() == [0, 0, 10, 255, 255]
    assert wrapped_levels(depth).tolist() == np.uint8(255 * depth.astype(int) % 256).tolist()


def test_splits_of_both_protocols(root: Path) -> None:
    for protocol, tested in (("CS", {3}), ("CV", {1, 2, 3, 4})):
        parts = {split: open_(root, split, protocol=protocol) for split in ("train", "val", "test")}
        subjects = {split: {one.subject for one in part.recordings} for split, part in parts.items()}
        assert subjects["test"] == tested
        assert len(subjects["val"]) == 1, "at least one whole subject"
        assert not subjects["val"] & subjects["train"]
        lines = [line for line in fake.all_lists()[f"@{protocol}/train"] if line[0] != fake.SHORT]
        assert sorted(one[:3] for split in ("train", "val") for one in parts[split].recordings) == sorted(lines)
        assert fake.SHORT not in {one.name for part in parts.values() for one in part.recordings}
    cameras = {one.name[4:8] for one in open_(root, protocol="CV").recordings}
    assert cameras == {"C001"}


def test_val_subjects_depend_on_their_numbers_alone(root: Path) -> None:
    few, more = ({one.subject for one in open_(root, "val", val_fraction=part).recordings} for part in (0.1, 0.67))
    assert few < more
    assert len(more) == 2
    assert few == {one.subject for one in open_(root, "val", frames=2).recordings}


def test_frames_are_spread_over_the_recording() -> None:
    rng = np.random.default_rng(0)
    for length in (17, 40, 103):
        for frames in (16, 32, 64):
            middle, drawn = spread(length, frames), np.stack([spread(length, frames, rng) for _ in range(200)])
            low, high = np.arange(frames) * length / frames, (np.arange(frames) + 1) * length / frames
            for places in (middle, drawn):
                assert (places >= np.floor(low)).all()
                assert (places < np.maximum(high, low + 1)).all()
            assert middle[-1] < length
            assert (np.diff(middle) >= 0).all()
            if length > 2 * frames:
                assert len(np.unique(drawn[:, 0])) == length // frames, "every frame of a segment is reached"


def test_training_is_drawn_anew_by_seed_index_and_epoch(root: Path) -> None:
    def read(split: str, seed: int = 0, epoch: int = 0) -> torch.Tensor:
        data = ModalityDropoutDataModule(lambda one: open_(root, one), ["rgb", "depth"], batch_size=2, seed=seed)
        loader = getattr(data, f"{split}_dataloader")()
        if split == "train":
            assert data.redraws()
            loader.sampler.set_epoch(epoch)
        batches = list(loader)
        order = torch.cat([batch["index"] for batch in batches]).argsort()
        assert all(batch["available"].any(1).all() for batch in batches)
        return torch.cat([torch.cat(list(batch["inputs"].values()), 1) for batch in batches])[order]

    assert torch.equal(read("train"), read("train"))
    for other in (read("train", epoch=1), read("train", seed=1)):
        assert not torch.equal(read("train"), other)
    assert torch.equal(read("val", seed=1), read("val"))
    plain = open_(root, "val")
    assert torch.equal(read("val")[1], torch.cat(list(plain[1]["inputs"].values())))


@pytest.mark.parametrize("axis", [0, 1])
def test_both_streams_are_cut_at_one_place_and_only_where_a_whole_square_fits(tmp_path: Path, axis: int) -> None:
    """Gray frames of 18 x 24 pixels whose rows, or columns, are 10 levels apart."""
    lists = fake.all_lists()
    fake.write(tmp_path, {"@CS/train": lists["@CS/train"][1:8:6], "@CS/valid": lists["@CS/valid"][:1]})
    levels = (10 * np.indices((18, 24))[axis]).astype(np.uint8)
    for path in tmp_path.rglob("*.*g"):
        fake.save(path, levels if path.suffix == ".png" else levels[..., None].repeat(3, 2))
    dataset = open_(tmp_path, "train")
    begins = set()
    for seed in range(40):
        inputs = dataset.draw_sample(0, np.random.default_rng(seed))["inputs"]
        colour, depth = (clip.permute(1, 2, 3, 0).numpy() * 128 + 127.5 for clip in inputs.values())
        level = np.abs(depth[..., None, :] - JET).sum(-1).argmin(-1)
        for place in (np.rint(colour.mean(-1) / 10), np.rint(level / 10)):
            begin = int(place[0, 0, 0])
            begins.add(begin)
            assert (place == begin + np.indices((16, 16))[axis]).all(), "the same in all frames"
        assert begin == int(np.rint(colour[0, 0, 0].mean() / 10)), "depth begins where colour does"
    assert begins == set(range(3 if axis == 0 else 9))


def test_root_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ntu_rgbd").symlink_to(root)
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path))
    assert len(NtuRgbd("test")) == 6
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match=r"empty lacks dataset_splits/@CV/train.txt, dataset_splits/@CV/valid"):
        NtuRgbd("test", root=str(tmp_path / "empty"), protocol="CV")


def test_a_missing_folder_names_recording_and_path(own: Path) -> None:
    folder = open_(own).recordings[1].folder(own, "depth")
    folder.rename(folder.with_name("gone"))
    with pytest.raises(
        DataNotFoundError,
        match=rf"S001C002P003R001A001_rgb has no depth, expected at {re.escape(str(folder))};",
    ):
        open_(own)


def test_allow_missing_gives_none_and_the_data_module_marks_it(own: Path) -> None:
    first, second = (open_(own).recordings[i].folder(own, "depth") for i in (0, 1))
    first.rename(first.with_name("gone"))
    for path in second.iterdir():  # a folder without frames
        path.unlink()
    dataset = open_(own, allow_missing=True)
    assert dataset[0]["inputs"]["depth"] is None
    data = ModalityDropoutDataModule(lambda split: dataset, ["rgb", "depth"], batch_size=4)
    batch = next(iter(data.test_dataloader()))
    assert batch["observed"].tolist() == [[True, False], [True, False], [True, True]]
    assert batch["inputs"]["depth"][:2].eq(0).all()
    first.mkdir()
    with pytest.raises(DataNotFoundError, match=r"the list says that \S+ has 20 frames, but \S+ holds the first 0"):
        open_(own)[0]
    colour = dataset.recordings[0].folder(own, "rgb")
    colour.rename(colour.with_name("gone"))
    first.rmdir()
    with pytest.raises(DataNotFoundError, match="has neither modality, expected at"):
        open_(own, allow_missing=True)


@pytest.mark.parametrize("allow_missing", [False, True])
def test_missing_frames_are_named(own: Path, allow_missing: bool) -> None:
    dataset = open_(own, allow_missing=allow_missing)
    folders = [dataset.recordings[index].folder(own, "depth") for index in range(3)]
    (folders[0] / "MDepth-00000010.png").unlink()
    with pytest.raises(
        DataNotFoundError, match=rf"{re.escape(str(folders[0]))}/MDepth-00000010.png is not there; 1 of the 20 frames"
    ):
        dataset[0]
    (folders[1] / "MDepth-00000020.png").unlink()
    with pytest.raises(
        DataNotFoundError,
        match=rf"the list says that \S+ has 20 frames, but {re.escape(str(folders[1]))} holds the firs",
    ):
        dataset[1]
    # more frames than the list says: the first are used, as the public loader does
    before = dataset[2]
    fake.save(folders[2] / "MDepth-00000021.png", np.zeros((18, 22), dtype=np.uint16))
    assert torch.equal(dataset[2]["inputs"]["depth"], before["inputs"]["depth"])


@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.9])
@pytest.mark.parametrize("modality", ["rgb", "depth"])
def test_a_damaged_frame_is_named(own: Path, modality: str, keep: float) -> None:
    path = sorted(open_(own).recordings[0].folder(own, modality).iterdir())[2]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(LightningMMError, match=rf"{re.escape(str(path))} is damaged \(.*\); copy it again"):
        open_(own)[0]


def test_frames_of_another_kind_are_named(own: Path) -> None:
    recording = open_(own).recordings[0]
    for modality, name, kind in (
        ("rgb", "000003.jpg", "8-bit RGB"),
        ("depth", "MDepth-00000003.png", "16-bit or 8-bit"),
    ):
        path = recording.folder(own, modality) / name
        whole = path.read_bytes()
        fake.save(path, np.zeros((18, 24) if modality == "rgb" else (18, 24, 3), dtype=np.uint8))
        with pytest.raises(LightningMMError, match=rf"{re.escape(str(path))} should be {kind}.*, got mode (L|RGB)"):
            open_(own)[0]
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("S001C001P003R001A001 20 0", r"valid.txt, line 4: expected a name, a number of frames and a label"),
        ("S001C001P003R001A009_rgb 20", "line 4: expected a name, a number of frames and a label"),
        ("S001C001P003R001A009_rgb 20 -1", "line 4: expected a name"),
        (f"S001C001P003R001A009_rgb {10**6} 0", "line 4: expected a name"),
        (f"S001C001P003R001A009_rgb 20 {'1' * 5000}", "line 4: expected a name"),
        ("S\u0660\u0661\u0661C001P003R001A009_rgb 20 0", "line 4: expected a name"),
        ("S001C001P003R001A009_rgb 20 60", "label out of range in .*valid.txt, line 4: expected 0 to 59, got 60"),
        ("S001C001P003R001A001_rgb 20 0", "valid.txt names S001C001P003R001A001_rgb twice"),
        ("S001C001P009R001A001_rgb 30 0", "recording S001C001P009R001A001_rgb has no rgb, expected at"),
    ],
)
def test_lists_that_cannot_be_right(own: Path, line: str, message: str) -> None:
    path = own / "dataset_splits/@CS/valid.txt"
    path.write_text(path.read_text() + line + "\n\n")
    with pytest.raises(LightningMMError, match=message):
        open_(own)
    path.write_text(f"{fake.SHORT} 16 0\n")
    with pytest.raises(DataNotFoundError, match="names no recording of at least 17 frames"):
        open_(own)


def test_bad_arguments(root: Path) -> None:
    for settings, message in [
        ({"split": "valid"}, r"split must be one of \['train', 'val', 'test'\], got 'valid'"),
        ({"protocol": "XSub"}, r"protocol must be one of \['CS', 'CV'\], got 'XSub'"),
        ({"depth_levels": "log"}, r"depth_levels must be one of \['linear', 'wrapped'\]"),
        ({"frames": 0}, "frames must be a whole number of at least 1, got 0"),
        ({"size": 20}, r"a square of size=20 does not fit into resize=\(24, 18\)"),
        ({"val_fraction": 0.0}, "val_fraction must be above 0 and below 1"),
    ]:
        with pytest.raises(LightningMMError, match=message):
            NtuRgbd(**{"split": "test", "root": str(root), **SMALL, **settings})
    with pytest.raises(IndexError, match="outside of the 6 samples of split 'test'"):
        open_(root)[6]


def test_the_page_says_where_the_splits_come_from() -> None:
    about = NtuRgbd.about
    assert about.name == "ntu_rgbd"
    assert about.counts == {"test": 16560}
    assert all(count in about.notes for count in ("40,320", "37,920", "18,960"))
    assert "test is valid.txt" in about.notes
