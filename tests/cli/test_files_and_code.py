"""Whose code runs and what is saved, through the command line: checkpoints, references, secrets, odd configs."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_mm.cli import main
from lightning_mm.cli.lightning.arguments import check_checkpoint
from lightning_mm.cli.references import References, masked
from lightning_mm.errors import LightningMMError, UsageError
from tests.support.tiny_run import BASE


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(command: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(command) == code
    printed = capsys.readouterr().err
    assert printed.count("lightning-mm: error: ") == 1
    assert "Traceback" not in printed
    return printed


def bad_checkpoints(folder: Path) -> list[tuple[str, int, str]]:
    """Write files that are no checkpoints: their name, the exit code, and what the message says."""
    torch.save({"state_dict": {}, "harmful": Harmful(folder / "ran")}, folder / "bad.ckpt")
    (folder / "pickle.ckpt").write_bytes(pickle.dumps(Harmful(folder / "ran")))
    whole = folder / "whole.ckpt"
    torch.save({"state_dict": {"a": torch.ones(100)}}, whole)
    (folder / "cut.ckpt").write_bytes(whole.read_bytes()[:-300])
    return [
        ("https://example.org/best.ckpt", 2, "is a URL, and a checkpoint is only read from a file"),
        ("file:///tmp/best.ckpt", 2, "is a URL"),
        ("bad.ckpt", 1, "reading it would run its code"),
        ("pickle.ckpt", 2, "is not a checkpoint"),
        ("cut.ckpt", 2, "is not a checkpoint"),
        ("nowhere.ckpt", 2, "no file at 'nowhere.ckpt'"),
    ]


def test_no_checkpoint_runs_code(folder: Path) -> None:
    for path, code, text in bad_checkpoints(folder):
        with pytest.raises(UsageError if code == 2 else LightningMMError, match=re.escape(text)):
            check_checkpoint("ckpt_path", path)
    assert not (folder / "ran").exists()
    torch.save({"state_dict": {"a": torch.ones(2)}}, folder / "good.ckpt")
    check_checkpoint("ckpt_path", "good.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "sweep"])
def test_a_bad_checkpoint_is_one_line(verb: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [verb, "-c", "base.yaml", "--trainer.default_root_dir", "out", "--ckpt_path"]
    for path, code, text in bad_checkpoints(folder):
        assert text in error_of([*command, path], code, capsys), path
    assert not (folder / "ran").exists()
    assert not (folder / "out").exists(), "nothing was written"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "odd.yaml: the file is empty; expected keys and values"),
        ("# nothing\n", "the file is empty"),
        ("null", "the file is empty"),
        ("- a\n- b\n", "expected keys and values, got list"),
        ("text", "expected keys and values, got str"),
        ("1: 2", "expected names of settings as keys, got 1"),
        ("data: {batch_size: 4}\ndata: {batch_size: 2}\n", "line 2, column 1: not YAML: the key 'data' is there twice"),
        ("data: {batch_size: 4, batch_size: 2}", "the key 'batch_size' is there twice"),
        ("trainer: null", "trainer: expected keys and values, got None"),
        ("trainer: 1", "trainer: expected keys and values, got 1"),
        ("data: &a [*a]", "too deep inside each other"),
        ("data: " + "[" * 200 + "]" * 200, "too deep inside each other"),
        ('data: "\\ud800"', "surrogates not allowed"),
        ('data: "a\\0b"', "the character of code 0"),
        ("data: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("data: {batch_size: '${data.batch_sise}'}", "batch_size: cannot resolve a reference ${...}"),
        ("data: {batch_size: '${data.batch_size}'}", "cannot resolve a reference ${...}"),
        ("data: {batch_size: '${nope:1}'}", "cannot resolve a reference ${...}"),
        ("data: {batch_size: '${oc.env:NO_SUCH_NAME}'}", "Environment variable 'NO_SUCH_NAME' not found"),
        ("data: {batch_size: '${'}", "${"),
    ],
)
def test_odd_configs(text: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "odd.yaml").write_text(text)
    assert expected in error_of(["fit", "-c", "base.yaml", "-c", "odd.yaml"], 2, capsys)


def test_merged_keys_of_yaml_are_no_doubles(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "merged.yaml").write_text("data: {<<: {batch_size: 2}, batch_size: 3}")
    assert main(["fit", "-c", "base.yaml", "-c", "merged.yaml", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["batch_size"] == 3


def test_the_value_of_a_secret_is_saved_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, place = "hunter2-and-more", "deep/here"
    monkeypatch.setenv("MY_SECRET", secret)
    monkeypatch.setenv("MY_PLACE", place)
    logger = """
trainer:
  default_root_dir: "${oc.env:MY_PLACE}/run"
  logger:
    class_path: lightning_mm.tracking.OfflineFirstWandbLogger
    init_args:
      save_dir: ${trainer.default_root_dir}
      project: p
      dict_kwargs: {notes: "by ${oc.env:MY_SECRET}"}
"""
    (folder / "logger.yaml").write_text(logger.replace("      dict_kwargs", "    dict_kwargs"))
    configs = ["-c", "base.yaml", "-c", "logger.yaml"]
    assert main(["fit", *configs, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert secret not in printed
    assert "${oc.env:MY_SECRET}" in printed
    assert yaml.safe_load(printed)["trainer"]["default_root_dir"] == "${oc.env:MY_PLACE}/run"
    assert "batch_size: 4" in printed


def test_settings_of_wandb_are_keys_and_values_of_a_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = "class_path: lightning_mm.tracking.OfflineFirstWandbLogger"
    (folder / "logger.yaml").write_text(
        f"trainer: {{logger: {{{logger}, init_args: {{settings: {{console: 'off', x_disable_stats: true}}}}}}}}"
    )
    assert main(["fit", "-c", "base.yaml", "-c", "logger.yaml", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]["init_args"]
    assert printed["settings"]["x_disable_stats"] is True
    assert printed["anonymous"] is None


@pytest.mark.slow
def test_neither_files_nor_runs_hold_a_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hunter2-and-more"
    monkeypatch.setenv("MY_SECRET", secret)
    (folder / "secret.yaml").write_text(
        """
data: {dataset: {init_args: {noise: 0.5}}}
trainer:
  default_root_dir: out
  logger:
    class_path: lightning_mm.tracking.OfflineFirstWandbLogger
    init_args: {save_dir: out, project: p, group: "${oc.env:MY_SECRET}"}
"""
    )
    configs = ["-c", "base.yaml", "-c", "secret.yaml"]
    assert main(["fit", *configs]) == 0
    assert main(["sweep", *configs, "--ckpt_path", "out/weights/best.ckpt", "--bootstrap", "0"]) == 0
    for name in ("fit.yaml", "sweep/sweep.json"):
        text = (folder / "out" / name).read_text()
        assert "${oc.env:MY_SECRET}" in text, name
        assert secret not in text, name
    # The group itself is what the user sends to W&B; nothing else of the run may hold the value.
    configs_of_runs = list((folder / "out").rglob("config.yaml"))
    assert all(secret not in path.read_text() for path in configs_of_runs)
    again = yaml.safe_load((folder / "out" / "fit.yaml").read_text())
    assert again["trainer"]["logger"]["init_args"]["group"] == "${oc.env:MY_SECRET}"
    assert main(["fit", "-c", "out/fit.yaml", "--print_config"]) == 0, "it can be run again"


def test_settings_with_secret_names_are_masked() -> None:
    text = "# head\na: {api_key: abc, max_tokens: 5, cls_token: '[CLS]', password: '', hf_token: '${oc.env:X}'}\n"
    found = masked(text)
    assert found.startswith("# head\n")
    assert yaml.safe_load(found) == {
        "a": {"api_key": "***", "max_tokens": 5, "cls_token": "[CLS]", "password": "", "hf_token": "${oc.env:X}"}
    }
    assert masked("a: 1 # as it is\n") == "a: 1 # as it is\n"


def test_only_references_to_the_environment_are_kept() -> None:
    references = References("fit")
    raw = {"a": "${oc.env:X}", "b": {"c": ["${..a}", "${.d}", 3], "d": 4}, "trainer": "s3cret"}
    references.note({"fit": raw})
    references.note({"dirpath": "${oc.env:X}"})  # of one class alone
    kept = yaml.safe_load(references.kept("a: s3cret\nb: {c: [s3cret, 4, 3], d: 4}\ntrainer: s3cret\n"))
    assert kept == {"a": "${oc.env:X}", "b": {"c": ["${..a}", 4, 3], "d": 4}, "trainer": "s3cret"}
    assert references.kept("dirpath: here\n") == "dirpath: here\n"
    assert References("fit").kept("a: 1 # as it is\n") == "a: 1 # as it is\n"
