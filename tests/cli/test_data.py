"""``lightning-mm data``: the list, a page, and the check of good, broken and wrong folders."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import lightning_mm.data
from lightning_mm.cli.data import find
from lightning_mm.cli.dispatch import VERBS, main
from lightning_mm.data.about import About
from lightning_mm.data.check import Seen, check, describe, modalities_of
from lightning_mm.data.pages import PAGES
from lightning_mm.errors import LightningMMError, UsageError
from tests.support.fake import mcubes, mfnet, mosi_features, nyudv2, utd_mhad
from tests.support.fake_data import FETCHED, FOLDERS, SMALL, lose_modality, write_data
from tests.support.image_files import save

SETS = ("AVDigits", "EasyVqa", "MosiFeatures", "MsLesions", "Ombria", "RavdessFeatures", "UtdMhad")
REAL = {*SETS, *(one.__name__ for one in FETCHED.values())}


def test_every_set_that_is_fetched_has_a_page_and_is_found_by_both_names() -> None:
    assert {page.data_set for page in PAGES} == REAL
    names = [page.name for page in PAGES]
    assert len(set(names)) == len(names)
    assert names == sorted(names)
    for page in PAGES:
        assert all((page.title, page.source, page.licence, page.reference, page.tree)), page
        assert find(page.name, PAGES) is find(page.data_set, PAGES) is page
        assert set(page.counts) <= {"train", "val", "test"}
        assert "\n" not in page.title
    assert find("MF_Net", PAGES) is lightning_mm.data.MFNet.about


def test_pages_and_data_sets_agree() -> None:
    exported = [getattr(lightning_mm.data, name) for name in lightning_mm.data.__all__]
    with_page = {one.__name__: one for one in exported if hasattr(one, "about")}
    assert {page.data_set: page for page in PAGES} == {name: one.about for name, one in with_page.items()}
    for name, one in with_page.items():
        assert modalities_of(one) == list(one.about.modalities), name
        assert getattr(one, "class_names", ()) == one.about.class_names, name


def test_the_list_names_every_set_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "data" in VERBS
    assert main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for page in PAGES:
        assert [line for line in lines if line.startswith(f"{page.name} ") and line.endswith(page.title)]
    assert main(["data", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == [page.name for page in PAGES]


def test_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mfnet"]) == 0
    page = capsys.readouterr().out
    for part in (
        "mfnet: MFNet: street scenes",
        "mil_multispectral",
        "IROS 2017",
        "train 784, val 392, test 393 (recalled, not read in a source)",
        "modalities  rgb, thermal",
        "9: unlabeled, car",
        "    ther/NAME.jpg",
        "Split trap",
        "lightning-mm data mfnet --check FOLDER",
    ):
        assert part in page
    assert main(["data", "NYUDv2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["class"] == "lightning_mm.data.NYUDv2"
    assert len(facts["classes"]) == 40
    assert facts["recalled"] is True


def test_pages_of_sets_whose_counts_were_read_do_not_say_recalled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "ombria"]) == 0
    assert "published   train 624, test 70\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mfnt"], "got 'mfnt'; did you mean 'mfnet'?"),
        (["mcube"], "did you mean 'mcubes'?"),
        (["zzz"], "got 'zzz'; see `lightning-mm data`"),
        (["--check", "x"], "say which data set the folder holds"),
        (["mfnet", "--limit", "2"], "--limit and --set belong to --check FOLDER"),
        (["mfnet", "--check", "x", "--limit", "0"], "--limit: expected 1 or more, got 0"),
        (["mfnet", "--check", "x", "--set", "size"], "--set: expected KEY=VALUE, got 'size'"),
        (["mfnet", "--check", "x", "--set", "sise=3"], "MFNet takes size, val_fraction, allow_missing, cache; got"),
        (["mfnet", "--check", "x", "--set", "split=val"], "got 'split'"),
        (["mfnet", "--chekc", "x"], "see `lightning-mm data --help`"),
    ],
)
def test_mistakes_in_the_command(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_good_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcubes.write(tmp_path)
    assert main(["data", "mcubes", "--check", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "train: 3 samples (published: 302, recalled)" in lines
    assert "val: 1 samples (published: 96, recalled)" in lines
    assert lines.count("  missing  nothing") == 3
    assert "  target   16 x 20; int64; labels 0-19, 255" in lines
    assert any(line.startswith("  nir      3 x 16 x 20; float32; 0.0") for line in lines)
    assert lines[-1] == "no errors"
    assert captured.err.splitlines() == ["train: 3/3 ", "val: 1/1 ", "test: 2/2 "]


def test_broken_files_are_named_and_the_rest_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mfnet.write(tmp_path)
    (tmp_path / "ther/00202N.jpg").unlink()
    broken = tmp_path / "rgb/00201D.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    label = save(tmp_path / f"labels/{mfnet.TRAIN[0]}.png", np.full((12, 16), 9))
    assert main(["data", "mfnet", "--check", str(tmp_path), "--set", "val_fraction=0.3"]) == 1
    captured = capsys.readouterr()
    assert "3 errors\n" in captured.out
    assert f"test: {broken} is damaged" in captured.out
    assert f"test: MFNet: sample 00202N has no thermal, expected at {tmp_path / 'ther/00202N.jpg'}; " in captured.out
    assert f"label out of range in {label}" in captured.out
    assert "missing  thermal 50.0%" in captured.out  # of the two that could be read
    assert "test: 3 samples (published: 393, recalled), 2 read" in captured.out
    assert f"error: {tmp_path} is not a whole copy of mfnet: 3 errors, the first are above" in captured.err
    given = ["--set", "val_fraction=0.3", "allow_missing=true"]
    assert main(["data", "mfnet", "--check", str(tmp_path), *given]) == 1
    out = capsys.readouterr().out
    assert "2 errors\n" in out
    assert "missing  thermal 50.0%" in out


def settings(family: str) -> list[str]:
    pairs = [
        f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in SMALL.get(family, {}).items()
    ]
    return ["--set", *pairs] if pairs else []


@pytest.mark.parametrize("family", FETCHED)
def test_page_and_check_of_the_sets_that_nobody_could_fetch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    folder = write_data(family, tmp_path)
    arguments = SMALL.get(family, {})
    parts = {split: FETCHED[family](split, root=str(folder), **arguments) for split in ("train", "val", "test")}
    names = list(parts["test"][0]["inputs"])
    assert main(["data", family]) == 0
    page = capsys.readouterr().out
    assert f"\nmodalities  {', '.join(names)}\n" in page
    assert f"$LIGHTNING_MM_DATA/{FOLDERS.get(family, family)}, or root" in page
    command = ["data", family, "--check", str(folder), *settings(family)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "no errors"
    assert [line.split()[1:] for line in out.splitlines() if line.startswith("  missing ")] == [["nothing"]] * 3
    assert main([*command, "--json"]) == 0
    for report in json.loads(capsys.readouterr().out)["splits"]:
        assert report["read"] == report["samples"] == len(parts[report["split"]])
        assert report["missing"] == dict.fromkeys(names, 0.0)
        assert {name.split(".")[0] for name in report["inputs"]} == set(names)


@pytest.mark.parametrize("family", FETCHED)
def test_a_copy_without_a_modality_is_not_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    folder = write_data(family, tmp_path)
    counts = {
        split: len(FETCHED[family](split, root=str(folder), **SMALL.get(family, {})))
        for split in ("train", "val", "test")
    }
    lost = lose_modality(family, folder)
    command = ["data", family, "--check", str(folder), *settings(family)]
    assert main([*command, "--json"]) == 1
    captured = capsys.readouterr()
    for report in json.loads(captured.out)["splits"]:
        assert report["read"] == counts[report["split"]], "what is there is read"
        assert report["missing"] == {name: float(name == lost) for name in report["missing"]}
        # one file holds the array of all utterances
        assert report["n_errors"] == (1 if family.startswith(("cmu", "iemocap")) else counts[report["split"]])
        assert all(f"has no {lost}" in one.replace("'", "") for one in report["errors"])
        assert all(str(folder) in one for one in report["errors"])
    assert f"{folder} is not a whole copy of {family}: " in captured.err
    command += ["allow_missing=true"] if "--set" in command else ["--set", "allow_missing=true"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count(f"{lost} 100.0%\n") == 3
    assert out.splitlines()[-1] == "no errors"


def test_samples_that_cannot_be_opened_are_told_and_the_others_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data("mfnet", tmp_path)
    for name in ("00201D", "00203D"):
        (tmp_path / f"mfnet/labels/{name}.png").unlink()
    (tmp_path / "mfnet/ther/00203D.jpg").unlink()
    (tmp_path / "mfnet/rgb/00203D.jpg").unlink()
    assert main(["data", "mfnet", "--check", str(tmp_path / "mfnet")]) == 1
    out = capsys.readouterr().out
    assert "2 errors\n" in out
    assert "test: 1 samples (published: 393, recalled)" in out
    for name in ("00201D", "00203D"):
        assert f"test: MFNet: sample {name} has no label image, expected at {tmp_path}/mfnet/labels/{name}.png" in out
    write_data("ntu_rgbd", tmp_path)
    recording = FETCHED["ntu_rgbd"]("test", root=str(tmp_path / "ntu_rgbd")).recordings[0]
    for modality in ("rgb", "depth"):
        folder = recording.folder(tmp_path / "ntu_rgbd", modality)
        folder.rename(folder.with_name("gone"))
    command = ["data", "ntu_rgbd", "--check", str(tmp_path / "ntu_rgbd"), *settings("ntu_rgbd")]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "1 errors\n" in out
    assert f"test: NtuRgbd: recording {recording.name} has neither modality, expected at" in out
    assert "test: 5 samples" in out


def test_no_more_than_ten_errors_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nyudv2.write(tmp_path)
    for name in nyudv2.TRAIN:
        (tmp_path / "RGB" / f"{name}.jpg").write_bytes(b"")
    assert main(["data", "nyudv2", "--check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "24 errors, the first 10" in out
    assert out.count("is damaged") == 10


def test_a_wrong_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mfnet", "--check", str(tmp_path / "nowhere")]) == 1
    captured = capsys.readouterr()
    assert "train: not opened (published: 784, recalled)" in captured.out
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in captured.out
    nyudv2.write(tmp_path / "other")
    assert main(["data", "mcubes", "--check", str(tmp_path / "other")]) == 1
    assert "lacks list_folder/train.txt, list_folder/test.txt" in capsys.readouterr().out


def test_a_limit_is_spread_evenly_and_json_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mfnet.write(tmp_path, val=True)
    save(tmp_path / f"labels/{mfnet.TRAIN[-1]}.png", np.full((12, 16), 77))
    assert main(["data", "mfnet", "--check", str(tmp_path), "--limit", "2", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    train = report["splits"][0]
    assert report["name"] == "mfnet"
    assert (train["samples"], train["read"], train["n_errors"]) == (24, 1, 1)
    assert train["inputs"]["rgb"]["shapes"] == [{"shape": [3, 12, 16], "n": 1}]
    assert train["missing"] == {"rgb": 0.0, "thermal": 0.0}


def test_sequences_and_labels_that_are_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    utd_mhad.write(tmp_path)
    assert main(["data", "utd_mhad", "--check", str(tmp_path), "--limit", "3"]) == 0
    out = capsys.readouterr().out
    assert "skeleton.values" in out
    assert "gyroscope.length" in out
    (tmp_path / "mosi").mkdir()
    mosi_features.write(tmp_path / "mosi")
    assert main(["data", "mosi_features", "--check", str(tmp_path / "mosi"), "--set", "context=2"]) == 0
    assert "  target        a value; int; labels 0-1" in capsys.readouterr().out


class _Odd:
    """A set of texts and numbers, some not finite, that never lacks a file and keeps nothing."""

    about: ClassVar[About] = About("odd", "Odd", "here", "free", "none", "nothing", counts={"val": 7})
    ids = ("a", "b")

    def __init__(self, split: str, root: str | None = None) -> None:
        if split == "test":
            raise LightningMMError("no test")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        text = None if index else "some words"
        sound = torch.tensor([1.0, float("nan"), float("inf")]) if index else torch.tensor([0.5, -2.0])
        return {"inputs": {"text": text, "sound": (sound, [sound.to(torch.bfloat16)])}, "target": -1.5 + index}


def test_odd_values_are_told_with_the_name_of_the_sample() -> None:
    reports = check(_Odd, Path("nowhere"), None, {})
    text = describe(_Odd.about, reports)
    assert "train: 2 samples\n" in text
    assert "val: 2 samples (published: 7)\n" in text
    assert "test: not opened\n" in text
    assert "train: sample b: sound.0 holds 2 values that are not finite" in text
    assert "5 errors\n" in text
    assert "missing    text 50.0%" in text
    assert "-2 to 1" in text
    assert "a value; float; -1.5 to -0.5" in text
    assert "a value; str" in text
    with pytest.raises(UsageError, match="_Odd takes ; got 'cache'"):
        check(_Odd, Path("nowhere"), None, {"cache": True})


def test_many_integers_are_a_range() -> None:
    seen = Seen(integers=True)
    seen.add(torch.arange(5000))
    assert seen.facts()["labels"] is None
    assert seen.facts()["range"] == [0.0, 4999.0]
    assert Seen(integers=True).facts() == {"shapes": [], "kinds": [], "range": None, "labels": None}


def test_the_progress_line_is_overwritten_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    mcubes.write(tmp_path)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    check(lightning_mm.data.MCubeS, tmp_path, None, {})
    # a slow machine shows more of the samples
    assert re.match(r"\rtrain: 0/3 (\rtrain: [12]/3 )*\rtrain: 3/3 \n", terminal.getvalue())


def test_exports_are_imported_when_asked_for() -> None:
    for name in lightning_mm.data.__all__:
        assert getattr(lightning_mm.data, name).__name__ == name
    assert set(lightning_mm.data.__all__) <= set(dir(lightning_mm.data))
    with pytest.raises(AttributeError, match="no attribute 'Modules'"):
        lightning_mm.data.Modules  # noqa: B018
