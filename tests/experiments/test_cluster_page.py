"""The page about clusters: its commands parse, its profile is one, its specification runs a command that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from lightning_mm.cli import main
from lightning_mm.cli.cluster.submit import parse, settings_from
from lightning_mm.cluster.submission.profile import read_profile, settings_of
from tests.support.repository import REPOSITORY

PAGE = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = [shlex.split(line) for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
COMMANDS = [line[1:] for line in LINES if line[:1] == ["lightning-mm"]]
YAMLS = [block for language, block in BLOCKS if language == "yaml"]


def test_the_commands_parse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert {command[0] for command in COMMANDS} >= {"submit", "status", "resubmit", "cancel"}
    monkeypatch.chdir(REPOSITORY)
    seen = set()
    for command in COMMANDS:
        if command[0] != "submit":
            assert main([command[0], "--help"]) == 0
            continue
        options, words = parse(command[1:])
        assert settings_from(options).partition in ("main", None)
        seen.add((options.scheduler, words[0]))
        more = "--dry_run" if words[0] == "compare" else "--print_config"
        assert main([*words, more]) == 0, shlex.join(words)
    assert seen == {("slurm", "fit"), ("slurm", "sweep"), ("slurm", "compare"), ("local", "fit")}


def test_the_profile_is_one(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(YAMLS[0])
    settings = settings_of(read_profile(path), "")
    assert (settings.time, settings.gpus_per_node, settings.sbatch) == ("12:00:00", 4, {"mail-type": "END"})


def test_the_specification_runs_a_command_that_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    container = yaml.safe_load(YAMLS[1])["spec"]["template"]["spec"]["containers"][0]
    words = container["command"]
    assert words[words.index("--trainer.devices") + 1] == words[words.index("--nproc-per-node") + 1]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    fit = words[words.index("lightning_mm") + 1 : words.index("--ckpt_path")]
    assert main([*fit, "--print_config"]) == 0


def test_what_the_page_prints_is_what_is_printed() -> None:
    printed = next(block for language, block in BLOCKS if not language)
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["job 123", "script", "follow", "cancel"]
