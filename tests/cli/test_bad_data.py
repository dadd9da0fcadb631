"""Bad data through the real command line: one message, a non-zero exit code, and nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_mm.cli import main
from tests.support.fake import ombria
from tests.support.repository import REPOSITORY

BASE = str(REPOSITORY / "experiments" / "ombria" / "base.yaml")
SMALL = ["--data.dataset.init_args.size", "64", "--data.batch_size", "4", "--trainer.max_epochs", "1"]
SMALL += ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--trainer.precision", "32-true"]
SMALL += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"]
SMALL += ["--trainer.enable_model_summary", "false"]
S1_TRAIN = "data/ombria/OmbriaS1/train"


def truncate(folder: Path) -> None:
    for path in (folder / S1_TRAIN / "AFTER").glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])


def wrong_label(folder: Path) -> None:
    for path in (folder / S1_TRAIN / "MASK").glob("*.png"):
        mask = np.array(Image.open(path))
        mask[0, 0] = 7
        Image.fromarray(mask).save(path)


def remove_one(folder: Path) -> None:
    next((folder / S1_TRAIN / "BEFORE").glob("*.png")).unlink()


def empty(folder: Path) -> None:
    for split in ("train", "test"):
        (folder / "data" / "ombria" / f"{split}_ids.txt").write_text("")


def untouched(folder: Path) -> None:
    """The data are as they should be; the settings are not."""


@pytest.mark.parametrize(
    ("spoil", "args", "texts"),
    [
        (truncate, [], ["S1_after_", ".png"]),
        (truncate, ["--data.num_workers", "2"], ["S1_after_", ".png"]),
        (wrong_label, [], ["S1_mask_", "7"]),
        (remove_one, [], ["S1_before_"]),
        (empty, [], ["empty|no "]),
        (untouched, ["--data.dataset.init_args.root", "nowhere"], ["nowhere"]),
        (untouched, ["--data.modalities", "[s1_before, s3]"], ["s3|disagree"]),
        (
            untouched,
            [
                "--data.modalities", "[s1_before, s3]",
                "--model.init_args.model.init_args.channels", "{s1_before: 1, s3: 1}",
            ],
            ["s3", "s1_after"],
        ),
        (
            untouched,
            ["--model.init_args.model.init_args.channels", "{s1_before: 1, s1_after: 3, s2_before: 3, s2_after: 3}"],
            ["s1_after", "3", "1"],
        ),
    ],
)  # fmt: skip
def test_one_message_and_nothing_written(
    spoil: Callable[[Path], None],
    args: list[str],
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ombria.write(tmp_path / "data" / "ombria")
    spoil(tmp_path)
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", BASE, *SMALL, *args]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "lightning-mm: error:" in line]
    assert len(errors) == 1
    assert "Traceback" not in errors[0]
    assert len(errors[0]) < 600
    for text in texts:
        assert any(option in errors[0] for option in text.split("|")), (text, errors[0])
    written = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert written == [], "no checkpoint, no config, no W&B run"
