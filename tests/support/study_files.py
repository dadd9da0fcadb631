"""The files of a finished study without what a clock, a commit and a command line say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def without_times(folder: Path) -> dict[str, Any]:
    """Name to content of all files of a study's results."""
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    notes = json.loads(found.pop("sweep.json"))
    assert notes.pop("seconds")
    notes.pop("inference_seconds", None)  # of a long sweep only
    found["sweep.json"] = {key: value for key, value in notes.items() if key != "commit"}
    study = json.loads(found.pop("study.json"))
    apart = ("commit", "command")
    found["study.json"] = {key: value for key, value in study.items() if "seconds" not in key and key not in apart}
    assert b"<html" in found.pop("report.html")
    assert found.pop("report.md")
    found["sweep.md"] = [line for line in found["sweep.md"].decode().splitlines() if " s |" not in line]
    return found
