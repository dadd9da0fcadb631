"""Bad data and settings of the sets for classification, sentiment and lesions, through the real command line.

One message, the right exit code, no traceback, nothing written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightning_mm.cli import main
from tests.support.fake_data import FOLDERS, write_data
from tests.support.repository import REPOSITORY

FAMILIES = ["utd_mhad", "av_digits", "ms_lesions", "mosi"]
SMALL = ["--data.batch_size", "4", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
SMALL += ["--trainer.limit_val_batches", "1", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
SMALL += ["--trainer.log_every_n_steps", "1", "--trainer.enable_model_summary", "false"]
DATASET = "--data.dataset.init_args."
NETWORK = "--model.init_args.model.init_args."
ENCODER = "{class_path: lightning_mm.models.ImageEncoder, init_args: {in_channels: 1}}"


def refused(family: str, args: list[str], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    """Run ``fit`` in an empty working directory and return its one message."""
    base = str(REPOSITORY / "experiments" / family / "base.yaml")
    assert main(["fit", "-c", base, *SMALL, *args]) == code
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if "lightning-mm: error:" in line]
    assert len(errors) == 1
    assert "Traceback" not in printed.out + printed.err
    assert len(errors[0]) < 600
    assert [path for path in Path().rglob("*") if path.is_file()] == [], "no checkpoint, no config, no W&B run"
    return errors[0]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``LIGHTNING_MM_DATA``, a folder that is not there yet, beside an empty working directory."""
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "data"


@pytest.mark.parametrize("family", ["mosi", *(pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES[:-1])])
def test_no_data(family: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (data / FOLDERS[family]).mkdir(parents=True)
    assert f"{FOLDERS[family]} lacks " in refused(family, [], capsys)
    monkeypatch.delenv("LIGHTNING_MM_DATA")
    message = refused(family, [], capsys)
    assert "no data folder is set; set LIGHTNING_MM_DATA to the folder that holds" in message
    assert f"{FOLDERS[family]}/" in message


def test_a_folder_that_is_not_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "utd_mhad does not exist; set LIGHTNING_MM_DATA" in refused("utd_mhad", [], capsys)
    assert "nowhere does not exist; set" in refused("mosi", [f"{DATASET}root", "nowhere"], capsys)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def no_labels(path: Path) -> None:
    with np.load(path) as arrays:
        kept = {key: arrays[key] for key in arrays.files if key != "train_label"}
    np.savez(path, **kept)


@pytest.mark.parametrize(
    ("family", "spoil", "text"),
    [
        ("utd_mhad", cut_off, "is damaged"),
        ("av_digits", flip, "is damaged"),
        ("ms_lesions", flip, "is damaged"),
        ("mosi", cut_off, "is damaged"),
        ("mosi", no_labels, "lacks the arrays ['train_label']"),
    ],
)
def test_damaged_files(
    family: str, spoil: Callable[[Path], None], text: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = min(write_data(family, data).glob("*.npz"))
    spoil(path)
    message = refused(family, [], capsys)
    assert str(path) in message
    assert text in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "args", "texts"),
    [
        ("utd_mhad", [f"{DATASET}val", "subjct"], ["val must be one of ['subject', 'trial'], got 'subjct'"]),
        ("av_digits", [f"{DATASET}speakers", "nobody"], ["speakers must be one of ['all', 'unseen'], got 'nobody'"]),
        (
            "ms_lesions",
            [f"{DATASET}val_patient", "8"],
            ["val_patient must be one of ['07', '19', '26', None], got '8'"],
        ),
        ("mosi", [f"{DATASET}val_fraction", "1.5"], ["val_fraction must be at least 0 and below 1, got 1.5"]),
        # labels that the task does not know
        ("utd_mhad", ["--model.init_args.num_classes", "5"], ["labels out of range: [26]", "0 to 4", "num_classes"]),
        ("av_digits", ["--model.init_args.num_classes", "4"], ["labels out of range: [4", "0 to 3", "num_classes"]),
        ("mosi", ["--model.init_args.labels", "regression"], ["expected Float[B] in [-3, 3]", "set labels to binary"]),
        ("av_digits", [f"{NETWORK}num_classes", "9"], ["disagree on the classes", "num_classes 10", "9"]),
        # names that the data set does not know
        ("utd_mhad", ["--data.modalities", "[skeleton, accelerometer, gyro]"], ["disagree on the modalities", "gyro"]),
        ("av_digits", ["--data.modalities", "[image, sound]"], ["disagree on the modalities", "sound"]),
        ("mosi", ["--data.modalities", "[text, audio, vision]"], ["disagree on the modalities", "vision"]),
        (
            "av_digits",
            ["--data.modalities", "[image, sound]", f"{NETWORK}encoders", f"{{image: {ENCODER}, sound: {ENCODER}}}"],
            ["sound", "image", "audio"],
        ),
        (
            "mosi",
            ["--data.modalities", "[text, vision]", f"{NETWORK}widths", "{text: 100, vision: 100}"],
            ["vision", "video"],
        ),
        # networks that do not fit the modalities
        ("av_digits", [f"{NETWORK}encoders", f"{{image: {ENCODER}}}"], ["disagree on the modalities", "audio"]),
        (
            "av_digits",
            [f"{NETWORK}encoders", f"{{audio: {ENCODER}, image: {ENCODER}}}"],
            ["disagree on the modalities", "same order"],
        ),
        (
            "utd_mhad",
            [
                f"{NETWORK}encoders",
                "{skeleton: {class_path: lightning_mm.models.SequenceEncoder, init_args: {in_channels: 20}}, "
                "accelerometer: {class_path: lightning_mm.models.SequenceEncoder, init_args: {in_channels: 3}}, "
                "gyroscope: {class_path: lightning_mm.models.SequenceEncoder, init_args: {in_channels: 3}}}",
            ],
            ["'skeleton'", "20", "60"],
        ),
        (
            "av_digits",
            [f"{NETWORK}encoders", f"{{image: {ENCODER}, audio: {{class_path: torch.nn.Identity}}}}"],
            ["'audio'", "Identity", "out_channels"],
        ),
        ("mosi", [f"{NETWORK}widths", "{text: 100, audio: 74, video: 100}"], ["'audio'", "74", "73"]),
        ("mosi", [f"{NETWORK}num_outputs", "3"], ["expected outputs [B], [B, 1] or [B, 2], got (2, 3)"]),
    ],
)
def test_settings_that_do_not_fit(
    family: str, args: list[str], texts: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(family, data)
    message = refused(family, args, capsys)
    for text in texts:
        assert text in message, message


@pytest.mark.parametrize(
    ("family", "args", "texts"),
    [
        ("utd_mhad", [f"{DATASET}vall", "subject"], ["vall"]),
        ("av_digits", [f"{DATASET}noise", "loud"], ["noise", "loud"]),
        ("av_digits", [f"{NETWORK}fusion.x", "1"], ["fusion"]),
        ("mosi", ["--model.init_args.labels", "both"], ["labels", "both"]),
    ],
)
def test_settings_that_are_none_have_exit_code_2(
    family: str, args: list[str], texts: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(family, data)
    message = refused(family, args, capsys, code=2)
    for text in texts:
        assert text in message, message


@pytest.mark.parametrize("who", ["transformers", "tokenizers"])
def test_packages_that_are_not_installed(
    who: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data("food101", data)
    monkeypatch.setitem(sys.modules, who, None)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "image_size": 64, "vocab_size": 40}
    small = [part for key, size in sizes.items() for part in (f"{NETWORK}{key}", str(size))]
    message = refused("food101", [*small, f"{DATASET}size", "32"], capsys)
    assert "pip install 'lightning-mm[transformers]'" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_idx.json", '{"pho": null}'),
        ("class_idx.json", '{"pho": "x"}'),
        ("split.json", '{"train": 3, "val": 3, "test": 3}'),
    ],
)
def test_lists_of_food101_that_are_broken(
    name: str, content: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_data("food101", data) / name
    path.write_text(content)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "image_size": 64, "vocab_size": 40}
    small = [part for key, size in sizes.items() for part in (f"{NETWORK}{key}", str(size))]
    assert str(path) in refused("food101", [*small, f"{DATASET}size", "32"], capsys)
