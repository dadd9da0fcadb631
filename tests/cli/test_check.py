"""``lightning-mm check``: the network of a config, before anything is trained."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from lightning_mm.cli import main
from tests.support.repository import REPOSITORY
from tests.support.tiny_run import BASE, SSF

pytestmark = pytest.mark.compiled
LOGGER = """
trainer:
  logger: {class_path: lightning_mm.tracking.OfflineFirstWandbLogger, init_args: {project: none, save_dir: runs}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the configs of a run whose base was never trained."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("ssf.yaml").write_text(SSF + "model: {init_args: {base_ckpt: not/yet/trained.ckpt}}\n")
    Path("logger.yaml").write_text(LOGGER)
    return tmp_path


def test_prints_one_table_and_nothing_else(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = sorted(here.rglob("*"))
    before = torch.get_num_threads()
    command = ["check", *("-c", "base.yaml", "-c", "ssf.yaml", "-c", "logger.yaml"), "--export", "false"]
    assert main([*command, "--basis", "Additive"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.split("\n", 1)[0].strip() == "TinyNetwork (374 parameters): SSF, Additive"
    assert out.count(" yes ") == 9
    assert "expected" not in out, "as in a line that says no"
    assert sorted(here.rglob("*")) == files, "nothing is written"
    assert torch.get_num_threads() == before


def test_json_of_several_kinds(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kinds = ["--kinds", "[SSF, {class_path: LoRA, init_args: {rank: 2}}]"]
    assert main(["check", "-c", "base.yaml", "--json", "--export", "false", *kinds]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["ok"], found["modalities"]) == (True, ["rgb", "depth"])
    assert [(one["kind"], one["basis"], one["ok"]) for one in found["kinds"]] == [
        ("SSF", "OneHot", True), ("LoRA", "OneHot", True),
    ]  # fmt: skip
    assert [one["combination"] for one in found["kinds"][0]["costs"]] == ["rgb", "depth", "rgb+depth"]


def test_a_no_is_exit_code_1(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = BASE.replace("tests.support.cli_network.TinyNetwork", "tests.support.cli_network.CrowdedNetwork")
    Path("base.yaml").write_text(text)
    assert main(["check", "-c", "base.yaml", "--export", "false"]) == 1
    out, err = capfd.readouterr()
    assert "mixed batch equals one by" in out
    assert err.startswith("lightning-mm: error: CrowdedNetwork: expected yes in every line, got no for ")
    assert "'mixed batch equals one by one'" in err


def test_the_commands_of_the_documentation_parse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPOSITORY / "docs" / "check.md").read_text(encoding="utf-8")
    commands = [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("lightning-mm ")]
    assert [command[0] for command in commands] == ["check"] * 2
    monkeypatch.chdir(REPOSITORY)
    for command in commands:
        assert main([*command, "--print_config"]) == 0
    assert "class_path: lightning_mm.adapters.LoRA" in capsys.readouterr().out
