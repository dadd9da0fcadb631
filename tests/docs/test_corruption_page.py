"""The blocks of docs/corruption.md; its command is run by tests/experiments/test_readme.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lightning_mm.cli import main
from lightning_mm.compare import read_study
from lightning_mm.data import Corruption, DroppedFrames, RandomCorruption
from lightning_mm.data.corrupt import frames, pixels
from tests.support.pages import DOCS, blocks, run_python
from tests.support.repository import REPOSITORY

PAGE = DOCS / "corruption.md"
SCENES = REPOSITORY / "experiments" / "scenes"
OVERLAY, STUDY = (block.text for block in blocks(PAGE) if block.language == "yaml")


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = run_python(PAGE)
    difference = space["damaged"]["inputs"]["depth"] - space["clean"]["inputs"]["depth"]
    assert difference.std() == pytest.approx(0.8, rel=0.05)
    assert len(space["outputs"]) == 100


def test_the_overlay_is_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "overlay.yaml").write_text(OVERLAY)
    command = ["fit", "-c", str(SCENES / "base.yaml"), "-c", str(tmp_path / "overlay.yaml"), "--print_config"]
    assert main(command) == 0
    (one,) = yaml.safe_load(capsys.readouterr().out)["data"]["corrupt"]["train"].values()
    assert one["class_path"].endswith(RandomCorruption.__name__)
    assert [kind["init_args"]["severity"] for kind in one["init_args"]["corruptions"]] == [3, 3]


def test_the_study_is_a_study(tmp_path: Path) -> None:
    for file in ("base.yaml", "ssf.yaml"):
        (tmp_path / file).write_text((SCENES / file).read_text())
    (tmp_path / "study.yaml").write_text(STUDY)
    study = read_study(tmp_path / "study.yaml")
    assert study.severities == (1, 3, 5)
    assert list(study.corruptions) == ["depth"]


def test_the_table_says_what_the_classes_do() -> None:
    kinds: dict[str, type[Corruption]] = {
        name: value
        for module in (frames, pixels)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Corruption) and value is not Corruption
    }
    rows = re.findall(r"^\| `(\w+)` \|.*?\| ([^|]*) \|$", PAGE.read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == set(kinds) == {*kinds, DroppedFrames.__name__}
    for name, text in rows:
        found = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
        assert found == pytest.approx([level * (100 if "%" in text else 1) for level in kinds[name].amounts]), name
