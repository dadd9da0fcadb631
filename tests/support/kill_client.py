"""Runs commands in children of ``tests.support.kill_server`` and looks at how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from tests.support.repository import REPOSITORY

CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130, "SIGUSR2": 75}


class Server:
    """Runs commands in children of a process that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kills = folder, list[str]()
        command = [sys.executable, "-m", "tests.support.kill_server"]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, what: str, args: list[str], point: str = "", *signals: str, limit: int = 0, ranks: int = 1, to: int = 0
    ) -> dict[str, Any]:
        """Run a command; with a point, send signals there; with a limit, let no file grow beyond it.

        Args:
            what: See ``kill_server``.
            args: Of the command.
            point: Where signals are sent.
            signals: Their names.
            limit: Bytes.
            ranks: Processes of one distributed run, each of which runs the command.
            to: The rank that gets the signals; -1 for all.
        """
        task = {
            "run": what,
            "args": args,
            "folder": str(self.folder),
            "log": str(self.folder / "log"),
            "point": point,
            "signals": signals,
            "limit": limit,
            "ranks": ranks,
            "to": to,
        }
        lines: IO[str] | None = self.process.stdin
        answers = self.process.stdout
        assert lines is not None
        assert answers is not None
        lines.write(json.dumps(task) + "\n")
        lines.flush()
        return json.loads(answers.readline())

    def whole(self, what: str, args: list[str]) -> None:
        """Run a command to its end."""
        assert self.run(what, args)["code"] == 0, self.log()

    def killed(self, what: str, args: list[str], point: str, name: str, number: str) -> None:
        """Kill a command and look at how it ends."""
        answer = self.run(what, args, point, number)
        verb = args[0] if what == "main" else what
        self.kills.append(f"{verb:8} {name:32} {number:8} {answer['code']:4}  left: {len(answer['left'])}")
        assert answer == {"code": CODES[number], "left": []}, f"{self.kills[-1]}\n{answer}\n{self.log()}"
        log = self.log()
        assert "Traceback" not in log, log
        said = [line for line in log.splitlines() if line.startswith("lightning-mm: stopped by ")]
        assert len(said) == (what == "main" and number != "SIGKILL"), log

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")
