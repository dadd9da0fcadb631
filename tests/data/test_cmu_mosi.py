"""CmuMosi and CmuMosei on files generated in the true layouts, whole and broken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import CmuMosei, CmuMosi, ModalityDropoutDataModule
from lightning_mm.data.about import About
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.fake import cmu_mosi as fake

KINDS = [
    (kind, layout, aligned) for kind in (CmuMosi, CmuMosei) for layout in ("mult", "mmsa") for aligned in (True, False)
]


@pytest.mark.parametrize(("kind", "layout", "aligned"), KINDS)
def test_shapes_values_and_targets_are_those_of_the_file(
    tmp_path: Path, kind: type[CmuMosi], layout: Any, aligned: bool
) -> None:
    content = fake.contents(kind, layout, aligned)
    root = str(fake.write(tmp_path, content, kind, layout, aligned))
    for split, stored in {"train": "train", "val": "valid", "test": "test"}.items():
        dataset, part = kind(split, root=root, layout=layout, aligned=aligned), content[stored]
        assert len(dataset) == fake.COUNTS[stored]
        assert dataset.channels == kind.widths[layout]
        labels = np.ravel(part["labels" if layout == "mult" else "regression_labels"])
        for row in range(len(dataset)):
            sample = dataset[row]
            assert sample["target"] == pytest.approx(labels[row])
            assert list(sample["inputs"]) == ["text", "audio", "vision"]
            for name, value in sample["inputs"].items():
                expected = np.where(np.isinf(part[name][row]), 0, part[name][row]).astype(np.float32)
                if aligned or layout == "mult":
                    assert value.dtype == torch.float32
                    assert np.array_equal(value.numpy(), expected)
                else:
                    length = value["length"]
                    stored_length = part["text_bert"][row, 1].sum() if name == "text" else part[f"{name}_lengths"][row]
                    assert type(length) is int
                    assert length == stored_length
                    assert np.array_equal(value["values"].numpy(), expected[:length])
    assert dataset.ids[2] == ("video2_0.5_1.5" if layout == "mult" else "video2$_$1")


def test_a_sample_is_pure_and_cannot_be_written_through(tmp_path: Path) -> None:
    for layout, aligned in (("mult", True), ("mmsa", False)):
        root = str(fake.write(tmp_path, layout=layout, aligned=aligned))
        dataset = CmuMosi("train", root=root, layout=layout, aligned=aligned)  # type: ignore[arg-type]
        for _ in range(2):
            value = dataset[3]["inputs"]["text"]
            value = value["values"] if isinstance(value, dict) else value
            assert value.any()
            value.zero_()


@pytest.mark.parametrize("protocol", [2, 5])
def test_old_files_are_read_and_the_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    fake.write(tmp_path / "cmu_mosi", protocol=protocol)
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path))
    assert len(CmuMosi("val")) == fake.COUNTS["valid"]
    with pytest.raises(DataNotFoundError, match=r"CmuMosi: .* lacks mosi_data_noalign\.pkl; set LIGHTNING_MM_DATA"):
        CmuMosi("val", aligned=False)
    with pytest.raises(DataNotFoundError, match=r"CmuMosei: the folder .*cmu_mosei does not exist"):
        CmuMosei("val")


def test_through_the_data_module(tmp_path: Path) -> None:
    root = str(fake.write(tmp_path, layout="mmsa", aligned=False))
    module = ModalityDropoutDataModule(
        lambda split: CmuMosi(split, root=root, layout="mmsa", aligned=False), ["text", "vision"], batch_size=4
    )
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    assert batch["target"].dtype == torch.float32
    length = batch["inputs"]["vision"]["length"]
    assert batch["inputs"]["vision"]["values"].shape == (4, int(length.max()), 20)


def test_a_modality_that_the_file_lacks(tmp_path: Path) -> None:
    content = fake.contents()
    for part in content.values():
        del part["audio"]
    root = str(fake.write(tmp_path, content))
    with pytest.raises(DataNotFoundError, match=r"mosi_data\.pkl, test has no 'audio', .* or set allow_missing=true"):
        CmuMosi("test", root=root)
    dataset = CmuMosi("test", root=root, allow_missing=True)
    assert all(dataset[row]["inputs"]["audio"] is None for row in range(len(dataset)))
    assert all(dataset[row]["inputs"]["text"] is not None for row in range(len(dataset)))
    for part in content.values():
        del part["text"], part["vision"]
    with pytest.raises(DataNotFoundError, match="has none of"):
        CmuMosi("test", root=str(fake.write(tmp_path, content)), allow_missing=True)


def test_names_of_odd_parts(tmp_path: Path) -> None:
    content = fake.contents()
    content["test"]["id"] = [["video", np.zeros((2, 3)), [1, 2]], np.array([b"a", b"b"]), "one", b"two", 3, ("x",), []]
    ids = CmuMosi("test", root=str(fake.write(tmp_path, content))).ids
    assert ids[0].startswith("video_[[0. 0. 0.]")
    assert ids[1:] == ("a_b", "one", "two", "3", "x", "")


def test_rows_of_zeros_are_not_missing(tmp_path: Path) -> None:
    content = fake.contents()
    content["test"]["vision"][2] = 0
    value = CmuMosi("test", root=str(fake.write(tmp_path, content)), allow_missing=True)[2]["inputs"]["vision"]
    assert value is not None
    assert not value.any()


def test_no_sequence_is_empty_and_the_file_need_not_name_utterances(tmp_path: Path) -> None:
    content = fake.contents(layout="mmsa", aligned=False)
    content["test"]["audio_lengths"][0] = 0
    for part in content.values():
        del part["id"], part["text_bert"]
    dataset = CmuMosi("test", str(fake.write(tmp_path, content, layout="mmsa", aligned=False)), "mmsa", aligned=False)
    inputs = dataset[0]["inputs"]
    assert inputs["audio"]["length"] == len(inputs["audio"]["values"]) == 1
    assert inputs["text"].shape == (fake.STEPS["text"], 768)  # nothing tells how long it is
    assert dataset.ids == tuple("0123456")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda part: part.update(text=part["text"][..., :8]),
            r"expected text of shape \(7, steps, 300\) .* \(7, 5, 8\)",
        ),
        (
            lambda part: part.update(audio=part["audio"][:3]),
            r"expected audio of shape \(7, steps, 5\) .* got \(3, 5, 5\)",
        ),
        (
            lambda part: part.update(vision=part["vision"][:, :2]),
            "aligned modalities differ in their steps, .*'vision': 2",
        ),
        (lambda part: part["vision"].fill(np.nan), "vision is not finite in 7 utterances, first in number 0"),
        (lambda part: part["audio"].fill(np.inf), "audio is not finite in 7 utterances"),
        (lambda part: part["labels"].fill(4), r"labels: expected sentiments in \[-3, 3\], got \[4.0"),
        (lambda part: part["labels"].fill(np.nan), r"labels: expected sentiments in \[-3, 3\], got \[nan"),
        (lambda part: part.update(labels=np.zeros((7, 6))), r"one number for each utterance, got shape \(7, 6\)"),
        (lambda part: part.pop("labels"), "lacks 'labels', it has .*; set layout, or copy"),
        (lambda part: part.update(text=[[1], [1, 2]]), "expected text to hold numbers, got object"),
        (lambda part: part.update(id=["one"]), "expected 7 names, got 1"),
        (lambda part: part.update(id=7), "id: expected 7 names, got 7; copy"),
        (lambda part: part.update(id=np.array("one")), r"id: expected 7 names, got array\('one'"),
    ],
)
def test_wrong_content_is_named(tmp_path: Path, change: Any, message: str) -> None:
    content = fake.contents()
    change(content["test"])
    with pytest.raises(LightningMMError, match=rf"CmuMosi: .*mosi_data\.pkl, test.*{message}"):
        CmuMosi("test", root=str(fake.write(tmp_path, content)))


@pytest.mark.parametrize("lengths", [[1, 2], [9] * 7, [-1] * 7, [1.5] * 7, [np.nan] * 7])
def test_wrong_lengths_are_named(tmp_path: Path, lengths: list[float]) -> None:
    content = fake.contents(layout="mmsa", aligned=False)
    content["test"]["audio_lengths"] = lengths
    root = str(fake.write(tmp_path, content, layout="mmsa", aligned=False))
    with pytest.raises(LightningMMError, match="expected 7 lengths of audio from 0 to 7 in 'audio_lengths', got"):
        CmuMosi("test", root=root, layout="mmsa", aligned=False)


@pytest.mark.parametrize("words", ["words", [[1], [1, 2]], np.full((7, 3, 5), "word"), np.full((7, 3, 5), np.nan)])
def test_counts_of_words_that_are_none(tmp_path: Path, words: Any) -> None:
    content = fake.contents(layout="mmsa", aligned=False)
    content["test"]["text_bert"] = words
    root = str(fake.write(tmp_path, content, layout="mmsa", aligned=False))
    with pytest.raises(LightningMMError, match=r"test: expected (text_bert to hold numbers|7 lengths of text)"):
        CmuMosi("test", root=root, layout="mmsa", aligned=False)


def test_files_that_are_no_data_are_named(tmp_path: Path) -> None:
    path = fake.write(tmp_path) / "mosi_data.pkl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LightningMMError, match=r"mosi_data\.pkl is damaged"):
        CmuMosi("test", root=str(tmp_path))
    for content in ({"train": {}}, [1, 2], {"train": 1, "valid": 2, "test": 3}):
        with pytest.raises(LightningMMError, match=r"expected a dict of the splits \['train', 'valid', 'test'\]"):
            CmuMosi("test", root=str(fake.write(tmp_path, content)))

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    with pytest.raises(
        LightningMMError, match=r"it asks for (posix|nt)\.system, and unpickling that could run any code"
    ):
        CmuMosi("test", root=str(fake.write(tmp_path, {"test": {"text": Evil()}})))
    assert not (tmp_path / "ran").exists()


@pytest.mark.wrong_types
def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        LightningMMError, match=r"CmuMosei: split must be one of \['train', 'val', 'test'\], got 'valid'"
    ):
        CmuMosei("valid", root=str(tmp_path))
    with pytest.raises(LightningMMError, match=r"layout must be one of \['mult', 'mmsa'\], got 'sdk'"):
        CmuMosi("val", root=str(tmp_path), layout="sdk")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="CmuMosi: index 7 is outside of the 7 samples of split 'test'"):
        CmuMosi("test", root=str(fake.write(tmp_path)))[7]


@pytest.mark.parametrize("kind", [CmuMosi, CmuMosei])
def test_about(kind: type[CmuMosi]) -> None:
    assert isinstance(kind.about, About)
    assert kind.about.name == kind.folder
    for aligned, unaligned in kind.files.values():
        assert aligned in kind.about.tree
        assert unaligned in kind.about.tree
    assert list(kind.about.counts) == ["train", "val", "test"]
