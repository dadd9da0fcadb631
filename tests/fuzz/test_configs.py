"""Configs and studies, changed at random, through the real command line: exit code 1 or 2 and one message, or right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from lightning_mm.cli import main
from lightning_mm.errors import LightningMMError
from tests.support.fuzz import Change, Tally, changes, copied, examples
from tests.support.repository import REPOSITORY
from tests.support.tiny_run import BASE, SSF

pytestmark = [pytest.mark.slow, pytest.mark.wrong_types]
SCENES = REPOSITORY / "experiments" / "scenes"


def outcome(command: list[str], capsys: pytest.CaptureFixture[str], accepted: str) -> bool:
    """Run a command: right if it accepts its files, else its error as ours; anything else is raised."""
    capsys.readouterr()
    code = main(command)
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if "lightning-mm: error: " in line]
    if code == 0 or (code == 1 and accepted in printed.err and len(errors) == 1):
        return True
    if code not in (1, 2) or len(errors) != 1 or "Traceback" in printed.err:
        raise RuntimeError(f"exit code {code}, printed {printed.err[-2000:]}")
    raise LightningMMError(printed.err[printed.err.index("lightning-mm: error: ") :])


def test_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally("configs")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "base.yaml").write_text(
        BASE.replace("logger: false", "default_root_dir: here\n  logger: false")
    )
    (tmp_path / "files" / "ssf.yaml").write_text(SSF)
    monkeypatch.chdir(tmp_path)

    def run_files(folder: Path) -> bool:
        # Everything is parsed and built; then `sweep` refuses to show a network that was not trained.
        command = ["sweep", "-c", str(folder / "base.yaml"), "-c", str(folder / "ssf.yaml")]
        return outcome(command, capsys, "sweep needs the weights of the")

    assert run_files(tmp_path / "files")

    @examples(170)
    @given(changes("flip", "cut", "empty", "junk", "not_utf8", "remove", "folder", *["replace"] * 8, *["drop"] * 2,
                   "add", "twice", "rename_key", "rename_key", "deep"))  # fmt: skip
    def run(change: Change) -> None:
        folder = copied(tmp_path / "files", tmp_path / "changed")
        change.apply(folder)
        tally.of(lambda: run_files(folder), change)

    run()
    with capsys.disabled():
        print(f"\n{tally}", end="")
    assert not tally.faults, "\n".join(tally.faults[:40])


def test_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally("studies")
    (tmp_path / "files").mkdir()
    for name in ("study.yaml", "base.yaml", "ssf.yaml"):
        (tmp_path / "files" / name).write_bytes((SCENES / name).read_bytes())
    monkeypatch.chdir(tmp_path)

    @examples(170)
    @given(changes())
    def run(change: Change) -> None:
        folder = copied(tmp_path / "files", tmp_path / "changed")
        if change.file < 0.7:  # most of them change the study
            (folder / "base.yaml").rename(tmp_path / "base.yaml")
            (folder / "ssf.yaml").rename(tmp_path / "ssf.yaml")
            change.apply(folder)
            for name in ("base.yaml", "ssf.yaml"):
                (tmp_path / name).replace(folder / name)
        else:
            change.apply(folder)
        command = ["compare", "-c", str(folder / "study.yaml"), "--dry_run", "--out", str(tmp_path / "out")]
        tally.of(lambda: outcome(command, capsys, "never"), change)

    run()
    with capsys.disabled():
        print(f"\n{tally}", end="")
    assert not tally.faults, "\n".join(tally.faults[:40])
