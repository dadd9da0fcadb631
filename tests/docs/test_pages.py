"""Every block and command of the pages is run: Python as it stands, files written, commands where they take seconds.

The commands on experiments of the repository are run in order by tests/experiments/test_readme.py; those of the page on
clusters by tests/experiments/test_cluster_page.py.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from docs.tools.make_pages import outdated
from lightning_mm.adapters import Basis, Kind
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.cli import main
from lightning_mm.compare import read_study
from lightning_mm.compare.tuning import read_tune
from lightning_mm.data import Scenes
from tests.support.pages import DOCS, PAGES, README, blocks, commands, made, run_python, write_files
from tests.support.repository import REPOSITORY

RUN_HERE = [DOCS / "questions.md", DOCS / "python.md", *sorted((DOCS / "kinds").glob("*.md"))]
START = [DOCS / "index.md", DOCS / "tutorial.md"]
ELSEWHERE = {"cluster.md", "security.md", "check.md", "missingness.md", "which_method_when.md"}
"""Pages whose blocks have a test of their own, or none."""
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
QUIET += ["--trainer.log_every_n_steps", "1"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed"),
    pytest.mark.filterwarnings("ignore:.*layers are left out"),
]


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = run_python(page)
    assert page.name == "index.md" or "adapted" in space
    for block in blocks(page):
        if block.language == "yaml":
            callback = yaml.safe_load(block.text)["trainer"]["callbacks"][0]
            assert isinstance(made(callback), FrozenBackboneAdapter)
            arguments = callback["init_args"]
            kinds = made(arguments["adapter"]), made(arguments["basis"])
            assert isinstance(kinds[0], Kind)
            assert isinstance(kinds[1], Basis)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
@pytest.mark.parametrize("page", START, ids=lambda page: page.name)
def test_a_newcomer_gets_through(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder: files are written, commands and Python run from top to bottom; scenes are few."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Scenes, "__len__", lambda self: 8)
    files = write_files(page, tmp_path)
    for name in files:
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    for verb, *words in commands(page):
        if verb == "demo":
            continue  # tests/cli/test_demo.py
        short = ["--trainer.max_epochs", "1"] if verb == "fit" else []
        more = [*QUIET, *short] if verb in ("fit", "sweep") else ["--dry_run"] if verb == "compare" else []
        assert main([verb, *words, *more]) == 0, shlex.join([verb, *words])
    for words in (words for block in blocks(page) if block.language == "sh" for words in block.lines):
        if words[0] == "python":
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
    run_python(page)
    assert list(tmp_path.rglob("sweep.csv"))
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.slow
def test_the_study_of_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")  # for its workers
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    write_files(DOCS / "tutorial.md", tmp_path)
    (study,) = [command for command in commands(DOCS / "tutorial.md") if command[0] == "compare"]
    assert main([*study, "--fast", "--combinations", "camera"]) == 0
    methods = {line.split(",")[0] for line in next(tmp_path.rglob("sweep.csv")).read_text().splitlines()[1:]}
    assert methods == {"zero_fill", "adapted", "dedicated"}
    sys.modules.pop("mine", None)


def test_the_tutorial_takes_at_most_forty_lines() -> None:
    shown = [block.text for block in blocks(DOCS / "tutorial.md") if block.title]
    assert len([line for text in shown for line in text.splitlines() if line.strip()]) <= 40
    assert max(len(line) for text in shown for line in text.splitlines()) <= 125


@pytest.mark.parametrize("name", ["studies.md", "which_method_when.md"])
def test_the_studies_that_pages_show_are_studies(name: str, tmp_path: Path) -> None:
    for file in ("base.yaml", "ssf.yaml"):
        (tmp_path / file).write_text((REPOSITORY / "experiments" / "scenes" / file).read_text())
    shown = [block.text for block in blocks(DOCS / name) if block.language == "yaml"]
    assert shown
    for text in shown:
        (tmp_path / "study.yaml").write_text(text)
        study = read_study(tmp_path / "study.yaml")
        assert {method.name for method in study.methods} >= {"zero_fill", "adapted", "dedicated"}


def test_the_search_that_the_page_shows_is_one(tmp_path: Path) -> None:
    for file in ("base.yaml", "ssf.yaml"):
        (tmp_path / file).write_text((REPOSITORY / "experiments" / "scenes" / file).read_text())
    (text,) = [block.text for block in blocks(DOCS / "tune.md") if block.language == "yaml"]
    (tmp_path / "tune.yaml").write_text(text)
    assert len(read_tune(tmp_path / "tune.yaml").trials()) == 12


def test_commands_of_the_page_on_searches_parse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are run by tests/experiments/test_studies.py."""
    monkeypatch.chdir(REPOSITORY)
    found = commands(DOCS / "tune.md")
    assert [verb for verb, *_ in found] == ["fit", "tune", "tune"]
    for verb, *words in found:
        assert main([verb, *words, "--print_config" if verb == "fit" else "--dry_run"]) == 0
    assert "12 trials; 24 trainings" in capsys.readouterr().out


def test_commands_about_data_run(capsys: pytest.CaptureFixture[str]) -> None:
    for page in sorted((DOCS / "data").glob("*.md")):
        found = commands(page)
        assert found
        for verb, *words in found:
            if verb == "data":
                assert main([verb, *words]) == 0
            else:
                assert all((REPOSITORY / path).is_file() for path in words if path.endswith(".yaml"))


def test_every_other_word_of_a_shell_is_known() -> None:
    """``pip install`` names an extra that exists, ``make`` a target; nothing else is typed."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for page in [README, *(page for page in PAGES if page.name not in ELSEWHERE)]:
        for block in blocks(page):
            assert block.language in ("sh", "python", "yaml", "text"), f"{page.name}: {block.language!r}"
            for words in block.lines if block.language == "sh" else []:
                known = words[0] in ("lightning-mm", "export", "python") or words[:2] == ["pip", "install"]
                assert known or (words[0] == "make" and words[1] in targets), f"{page.name}: {words}"
        for name in re.findall(r"lightning-mm\[(\w+)\]", page.read_text(encoding="utf-8")):
            assert name in extras, f"{page.name}: {name}"


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_files_that_a_page_links_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_generated_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert outdated() == 0, capsys.readouterr().err
