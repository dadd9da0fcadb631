"""What MFNet, NYUDv2 and MCubeS have in common, on files generated in their true layouts, whole and broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_mm.data import MCubeS, MFNet, ModalityDropoutDataModule, NYUDv2
from lightning_mm.data.datasets.base.labelled_images import LabelledImages
from lightning_mm.data.datasets.base.splits import fraction
from lightning_mm.data.readers.lists import read_list
from lightning_mm.errors import DataNotFoundError, IncompleteDataError, LightningMMError
from tests.support.fake import mcubes, mfnet, nyudv2
from tests.support.image_files import save


@dataclass
class Case:
    """A data set, its files, and what of them a test breaks: the second test sample."""

    data_set: Callable[..., LabelledImages]
    write: Callable[[Path], None]
    modality: str
    file: str
    label: str
    listed: str = "test.txt"


CASES = {
    "mfnet": Case(MFNet, mfnet.write, "thermal", "ther/00202N.jpg", "labels/00202N.png"),
    "nyudv2": Case(NYUDv2, nyudv2.write, "hha", "HHA/30.jpg", "Label/30.png"),
    "mcubes": Case(
        MCubeS,
        mcubes.write,
        "dolp",
        "polL_dolp/outscene1209_1_0000000150.npy",
        "GT/outscene1209_1_0000000150.png",
        "list_folder/test.txt",
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    case = CASES[request.param]
    case.write(tmp_path / request.param)
    return case


@pytest.fixture
def root(case: Case, tmp_path: Path) -> Path:
    return tmp_path / next(name for name, one in CASES.items() if one is case)


def test_the_second_word_of_a_line_and_blank_lines_are_left_out(case: Case, root: Path) -> None:
    ids = case.data_set("test", root=str(root)).ids
    (root / case.listed).write_text("\ufeff" + "\r\n\r\n".join(f"{name} 103\tx" for name in ids) + "\r\n")
    assert case.data_set("test", root=str(root)).ids == ids


def test_lists_that_are_empty_gone_or_twice(case: Case, root: Path) -> None:
    path = root / case.listed
    name = path.read_text().split()[0]
    path.write_text(f"{name}\n{name} 1\n")
    with pytest.raises(LightningMMError, match=rf"{path} names '{name}' twice"):
        case.data_set("test", root=str(root))
    path.write_text("\n")
    with pytest.raises(LightningMMError, match=rf"{path} is empty; expected one name a line"):
        case.data_set("test", root=str(root))
    path.write_text("one\n" + 300 * "name" + "\n")
    with pytest.raises(LightningMMError, match=rf"{path} is no list of names: one of them has 1200 letters and begins"):
        case.data_set("test", root=str(root))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LightningMMError, match=rf"{path} is damaged"):
        case.data_set("test", root=str(root))
    path.unlink()
    with pytest.raises(DataNotFoundError, match=rf"lacks {case.listed}; set LIGHTNING_MM_DATA"):
        case.data_set("test", root=str(root))
    with pytest.raises(DataNotFoundError, match="is not there; copy it"):
        read_list(path)


def test_missing_files_are_errors_or_none(case: Case, root: Path) -> None:
    path = root / case.file
    path.unlink()
    with pytest.raises(DataNotFoundError, match=rf"has no {case.modality}, expected at {path}; complete the data"):
        case.data_set("test", root=str(root))
    dataset = case.data_set("test", root=str(root), allow_missing=True)
    assert [name for name, value in dataset[1]["inputs"].items() if value is None] == [case.modality]
    data = ModalityDropoutDataModule(lambda split: dataset, list(dataset.channels), batch_size=4)
    batch = next(iter(data.test_dataloader()))
    column = list(dataset.channels).index(case.modality)
    assert batch["observed"][:, column].tolist() == [True, False, True][: len(dataset)]
    (root / case.label).unlink()
    with pytest.raises(DataNotFoundError, match=rf"has no label image, expected at {root / case.label}"):
        case.data_set("test", root=str(root), allow_missing=True)


def test_the_first_missing_file_is_named_and_the_others_counted(case: Case, root: Path) -> None:
    whole = case.data_set("train", root=str(root))
    for name in whole.ids[:2]:
        whole.label_files(name)[0].unlink()
    with pytest.raises(
        IncompleteDataError, match=r"has no label image, expected at \S+ \(1 more samples lack files\)$"
    ) as told:
        case.data_set("train", root=str(root))
    assert [f"sample {name} " in problem for name, problem in zip(whole.ids, told.value.problems)] == [True] * 2
    rest = told.value.opened
    assert isinstance(rest, case.data_set)  # type: ignore[arg-type]
    assert rest.ids == whole.ids[2:]
    assert torch.equal(rest[0]["target"], whole[2]["target"])


def test_a_sample_without_any_modality(case: Case, root: Path) -> None:
    dataset = case.data_set("test", root=str(root))
    for files in dataset.modality_files(dataset.ids[1]).values():
        for path in files:
            path.unlink()
    with pytest.raises(DataNotFoundError, match="has no modality at all, expected at"):
        case.data_set("test", root=str(root), allow_missing=True)


def test_damage_sizes_and_labels(case: Case, root: Path) -> None:
    dataset = case.data_set("test", root=str(root))
    height, width = dataset._read(1, tuple(dataset.channels))["target"].shape
    path = root / case.file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    dataset[0]
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*\); copy it again"):
        dataset[1]
    path.write_bytes(whole)
    save(root / case.label, np.full((height, width + (192 if case.data_set is MCubeS else 0)), 77))
    with pytest.raises(LightningMMError, match=rf"label out of range in {root / case.label}: .*got \[77\]"):
        dataset[1]
    save(root / case.label, np.ones((height + 1, 300)))
    with pytest.raises(LightningMMError, match=rf"differ in size \(height, width\): .*{case.label}': \({height + 1}, "):
        dataset[1]


def test_the_cache_changes_nothing_and_cannot_be_written_through(case: Case, root: Path) -> None:
    cached, plain = (case.data_set("test", root=str(root), cache=cache) for cache in (True, False))
    first = cached[1]
    first["inputs"][case.modality].zero_()
    first["target"].fill_(7)
    (root / case.file).rename(root / "aside")
    again = cached[1]
    with pytest.raises(DataNotFoundError, match="is not there"):
        plain[1]
    (root / "aside").rename(root / case.file)
    expected = plain[1]
    assert torch.equal(again["target"], expected["target"])
    assert all(torch.equal(again["inputs"][name], expected["inputs"][name]) for name in plain.channels)


def test_size_resizes_all_alike(case: Case, root: Path) -> None:
    full, small = (case.data_set("test", root=str(root), size=size)[0] for size in (None, (4, 8)))
    assert small["target"].shape == (4, 8)
    assert set(small["target"].unique().tolist()) <= set(full["target"].unique().tolist())
    for value in small["inputs"].values():
        assert value.shape == (3, 4, 8)
    same = case.data_set("test", root=str(root), size=tuple(full["target"].shape))[0]
    assert torch.equal(same["target"], full["target"])
    for name, value in full["inputs"].items():
        assert torch.allclose(same["inputs"][name], value, atol=1e-5)


def test_root_from_the_environment(case: Case, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(root.parent))
    assert len(case.data_set("test")) >= 2
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(root / "nowhere"))
    with pytest.raises(DataNotFoundError, match=rf"nowhere/{root.name} does not exist; set LIGHTNING_MM_DATA"):
        case.data_set("test")


def test_bad_arguments(case: Case, root: Path) -> None:
    for settings, message in [
        ({"split": "dev"}, r"split must be one of \['train', 'val', 'test'\], got 'dev'"),
        ({"size": (0, 4)}, r"size must be a positive height and width, got \(0, 4\)"),
        ({"val_fraction": 1.0}, r"val_fraction must be at least 0 and below 1, got 1\.0"),
    ]:
        with pytest.raises(LightningMMError, match=message):
            case.data_set(**{"split": "test", "root": str(root), **settings})
    with pytest.raises(IndexError, match="outside of the"):
        case.data_set("test", root=str(root))[99]


def test_the_hash_is_even_and_knows_the_set() -> None:
    values = [fraction("mfnet", f"{i:05d}D") for i in range(1000)]
    assert 0.07 < np.mean(np.array(values) < 0.1) < 0.13
    assert fraction("mfnet", "00001D") != fraction("nyudv2", "00001D")
