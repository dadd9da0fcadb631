"""Holds the shape of the package: which room may import which, and how large files and folders may be.

One test per rule; it lists every offender.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

PACKAGE = REPOSITORY / "lightning_mm"
FILES = sorted(PACKAGE.rglob("*.py"))
TEST_FILES = sorted((REPOSITORY / "tests").rglob("*.py"))

# An arrow may only point down, to a smaller number. Rooms with the same number may not know each other.
RANKS = {
    "version": 0,
    "errors": 0,
    "moved": 0,
    "signals": 0,
    "files": 1,
    "tree": 1,
    "provenance": 1,
    "modality_names": 1,
    "json_files": 1,
    "settings_files": 1,
    "schemas": 2,
    "modalities": 2,
    "missing": 3,
    "results": 4,
    "models": 5,
    "adapters": 6,
    "export": 7,
    "data": 8,
    "tasks": 9,
    "callbacks": 10,
    "sweep": 11,
    "tracking": 12,
    "compare": 13,
    "cluster": 14,
    "report": 15,
    "cli": 16,
    "__main__": 17,
}
NO_LIGHTNING = (
    "errors", "version", "files", "json_files", "settings_files", "schemas", "tree", "provenance", "modality_names",
    "modalities", "missing", "results", "models", "adapters", "export", "report",
)  # fmt: skip
READ_BY_REPORT = ("results", "errors", "files", "json_files", "settings_files", "modality_names", "version")
"""What ``lightning_mm.report`` may import: it reads results, so that a page needs no torch."""
FOR_TESTING = ("testing", "errors", "modalities", "missing", "tree", "adapters", "export")
"""What ``lightning_mm.testing`` may import: it is for users' tests and ours; only ``lightning-mm check`` imports it."""
LONGEST_FILE = 400
LONGEST_CENTRAL_CLASS = 200
WIDEST_FOLDER = 14
"""Python files, ``__init__.py`` among them."""


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room(module: str) -> str:
    """``lightning_mm.data.module`` -> ``data``."""
    return module.split(".")[1] if "." in module else "__init__"


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """All imports with their lines: also those inside functions and those for type checkers alone.

    ``from lightning_mm import data`` names the module ``lightning_mm.data``.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                # a name of a package is looked up in its __init__ before its modules
                shadowed = node.module in MODULES and alias.name in defined_by(MODULES[node.module])
                found.append((node.lineno, inner if inner in MODULES and not shadowed else str(node.module)))
    return tuple(found)


@cache
def defined_by(path: Path) -> set[str]:
    """Names that an ``__init__.py`` imports from elsewhere or defines."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reach = {node: reached(node) for node in graph}
    groups = {frozenset(b for b in graph if b in reach[a] and a in reach[b]) for a in graph if a in reach[a]}
    return sorted(map(sorted, groups))


def test_arrows_between_rooms_point_down() -> None:
    wrong = []
    for module, path in MODULES.items():
        own = room(module)
        for line, name in imports(path):
            other = room(name)
            if not name.startswith("lightning_mm") or own == "__init__" or other in (own, "__init__"):
                continue
            allowed = RANKS.get(other, 99) < RANKS.get(own, -1)
            if other == "testing":
                allowed = own == "cli"
            if own in ("testing", "report"):
                allowed = other in (FOR_TESTING if own == "testing" else READ_BY_REPORT)
            if not allowed:
                wrong.append(f"{path.relative_to(REPOSITORY)}:{line} imports {name}: {own} may not know {other}")
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: {name for _, name in imports(path) if name in MODULES} for module, path in MODULES.items()}
    found = circles(graph)
    assert not found, "\n".join(" <-> ".join(group) for group in found)


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}}) == [["a", "b", "c"]]


def test_pure_torch_rooms_do_not_import_lightning() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
        for module, path in MODULES.items()
        if room(module) in NO_LIGHTNING
        for line, name in imports(path)
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "wandb")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_package_never_imports_experiments_or_tests() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
        for path in FILES
        for line, name in imports(path)
        if name.split(".")[0] in ("experiments", "tests")
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_place() -> None:
    strangers = {room(module) for module in MODULES} - {"__init__", "testing"} - set(RANKS)
    assert not strangers, f"give {strangers} a place in RANKS"


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*FILES, *TEST_FILES)}
    long = [f"{path.relative_to(REPOSITORY)}: {n} lines" for path, n in lengths.items() if n > LONGEST_FILE]
    assert not long, "these files are asking to be two:\n" + "\n".join(long)


def test_the_central_classes_are_small() -> None:
    for file, name in (("adapters/adapter.py", "Adapter"), ("results/result.py", "SweepResult")):
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        assert found.end_lineno is not None
        assert found.end_lineno - found.lineno < LONGEST_CENTRAL_CLASS, f"{name} is asking for a file of its own"


def test_folders_are_narrow() -> None:
    widths = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in FILES}}
    wide = [f"{folder.relative_to(REPOSITORY)}: {n} files" for folder, n in widths.items() if n > WIDEST_FOLDER]
    assert not wide, "these folders are asking for rooms of their own:\n" + "\n".join(wide)


def test_no_test_file_imports_another() -> None:
    wrong = {
        f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
        for path in TEST_FILES
        for line, name in imports(path)
        if name.startswith("tests.")
        and not name.startswith("tests.support")
        and (path.parent.name != "power" or not name.startswith("tests.power."))  # data, run by `python -m tests.power`
    }
    assert not wrong, "what tests share lies in tests/support:\n" + "\n".join(sorted(wrong))


def test_importing_the_package_does_not_import_lightning() -> None:
    code = "import sys, lightning_mm, lightning_mm.cli; sys.exit(any(m in sys.modules for m in ('lightning', 'wandb')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_the_lazy_export_is_there() -> None:
    import lightning_mm
    from lightning_mm.data import ModalityDropoutDataModule

    assert lightning_mm.ModalityDropoutDataModule is ModalityDropoutDataModule
    with pytest.raises(AttributeError, match="no attribute 'Modalties'"):
        lightning_mm.Modalties  # noqa: B018
