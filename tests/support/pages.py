"""The pages of the documentation: their code blocks, in order, and how they are run."""

from __future__ import annotations

import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.repository import REPOSITORY

DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.name.endswith(".in.md"))
_FENCE = re.compile(r"^```(\w*)(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``title`` is the name of the file that it shows."""

    language: str
    title: str
    text: str

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line of a shell block, comments left out."""
        split = (shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines())
        return [words for words in split if words]

    @property
    def commands(self) -> list[list[str]]:
        """Words after ``lightning-mm``."""
        return [words[1:] for words in self.lines if words[0] == "lightning-mm"] if self.language == "sh" else []


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    return [Block(*found.groups(default="")) for found in _FENCE.finditer(page.read_text(encoding="utf-8"))]


def commands(*pages: Path) -> list[list[str]]:
    """Every command of some pages, in order."""
    return [command for page in pages for block in blocks(page) for command in block.commands]


def run_python(page: Path, space: dict[str, Any] | None = None) -> dict[str, Any]:
    """Execute the Python of a page from top to bottom in one namespace; blocks with a title are files, and not run."""
    space = {} if space is None else space
    for number, block in enumerate(blocks(page)):
        if block.language == "python" and not block.title:
            exec(compile(block.text, f"{page.name}, block {number}", "exec"), space)
    return space


def write_files(page: Path, folder: Path) -> list[str]:
    """Write the blocks that have a title, as a reader would."""
    named = [block for block in blocks(page) if block.title]
    for block in named:
        (folder / block.title).write_text(block.text, encoding="utf-8")
    return [block.title for block in named]


def made(value: Any) -> Any:
    """An object from its ``class_path`` and ``init_args``."""
    if isinstance(value, list):
        return [made(one) for one in value]
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    module, _, name = value["class_path"].rpartition(".")
    given = value.get("init_args", {})
    return getattr(importlib.import_module(module), name)(**{key: made(one) for key, one in given.items()})
