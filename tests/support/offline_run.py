"""Reads an offline run of Weights & Biases back with W&B's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class OfflineRun:
    """What the reader says of one offline run.

    Args:
        folder: ``offline-run-...``.
    """

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        self.folder = folder
        self.text = answer.stdout
        self.records = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]

    def of(self, kind: str) -> list[Any]:
        """The records of one kind."""
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines."""
        return [one["item"] for one in self.of("history")]

    @property
    def values(self) -> dict[str, Any]:
        """The last value of each key."""
        return {key: value for line in self.history for key, value in line.items()}

    @property
    def summary(self) -> dict[str, Any]:
        """The summary as it was set."""
        found: dict[str, Any] = {}
        for one in self.of("summary"):
            found.update(one.get("update") or {})
        return found

    @property
    def start(self) -> dict[str, Any]:
        """Id, group, job type, tags."""
        found: dict[str, Any] = self.of("run")[0]
        return found

    def table(self, key: str) -> dict[str, Any]:
        """The content of a table."""
        found: dict[str, Any] = json.loads((self.folder / "files" / self.values[f"{key}.path"]).read_text())
        return found
