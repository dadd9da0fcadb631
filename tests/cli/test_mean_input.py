"""``lightning-mm mean_input`` on generated data in the true layout, and its fill in a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_mm.cli import main
from lightning_mm.data import MosiFeatures, UtdMhad
from lightning_mm.missing import MeanInput, mean_inputs
from tests.support.fake_data import write_data
from tests.support.repository import REPOSITORY

QUIET = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]


def command(family: str) -> list[str]:
    return ["mean_input", "-c", str(REPOSITORY / "experiments" / family / "base.yaml"), *QUIET]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_writes_the_mean_of_the_training_split(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data("mosi", here.parent / "data")
    plain = ["--data.dataset.init_args.context", "0"]
    assert main([*command("mosi"), *plain, "--out", "new/mean.safetensors", "--limit", "7"]) == 0
    assert "written: new/mean.safetensors" in capsys.readouterr().out
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*")) == ["new", "new/mean.safetensors"]
    dataset = MosiFeatures("train")
    fill = MeanInput("new/mean.safetensors")
    for name in ("text", "audio", "video"):
        expected = sum(dataset[i]["inputs"][name].double() for i in range(7)) / 7
        found = fill(name, torch.zeros(1, len(expected)), torch.tensor([False]))[0]
        torch.testing.assert_close(found, expected.float())


def test_sequences_have_one_mean_per_channel(here: Path) -> None:
    write_data("utd_mhad", here.parent / "data")
    # the policies and the augmentation of the config play no role
    values = {"val": "trial", "stride": "2", "frames": "null"}  # whatever the experiment uses
    native = [part for key, value in values.items() for part in (f"--data.dataset.init_args.{key}", value)]
    assert main([*command("utd_mhad"), *native, "--out", "mean.safetensors"]) == 0
    fill = MeanInput("mean.safetensors")
    dataset = UtdMhad("train", val="trial", stride=2)
    expected = mean_inputs(dataset, list(UtdMhad.channels))
    for name, channels in UtdMhad.channels.items():
        assert expected[f"{name}/values"].shape == (channels,)
        value = {"values": torch.zeros(2, 5, channels), "length": torch.tensor([5, 3])}
        filled = fill(name, value, torch.tensor([False, True]))
        torch.testing.assert_close(filled["values"][0], expected[f"{name}/values"].expand(5, -1))
        assert not filled["values"][1].any()


@pytest.mark.parametrize(
    ("out", "text"),
    [
        ("taken/mean.safetensors", "a folder is needed at taken, which is a file"),
        ("taken/below/mean.safetensors", "cannot write to taken/below: a folder is needed at taken, which is a file"),
        ("folder", "cannot write folder: it is a folder; give a file in it"),
    ],
)
def test_a_place_where_no_file_can_be(out: str, text: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data("mosi", here.parent / "data")
    Path("taken").write_text("a file")
    Path("folder").mkdir()
    assert main([*command("mosi"), "--out", out]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "lightning-mm: error:" in line]
    assert len(errors) == 1
    assert text in errors[0]
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*")) == ["folder", "taken"], "nothing is left"


def test_out_is_needed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("mosi")) == 2
    assert "out" in capsys.readouterr().err
    assert main([*command("mosi"), "--out", "mean.safetensors"]) == 1
    assert "mosi_bclstm does not exist; set LIGHTNING_MM_DATA" in capsys.readouterr().err
    assert list(here.iterdir()) == []
