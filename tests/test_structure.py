"""Holds the shape of the package: which room may import which, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "lightning_mm"
FILES = sorted(PACKAGE.rglob("*.py"))

# An arrow may only point down, to a smaller number. Rooms with the same number may not know each other.
RANKS = {
    "version": 0,
    "errors": 0,
    "modalities": 1,
    "missing": 2,
    "models": 3,
    "adapters": 4,
    "export": 5,
    "data": 6,
    "tasks": 7,
    "callbacks": 8,
    "tracking": 9,
    "sweep": 10,
    "compare": 11,
    "cluster": 12,
    "cli": 13,
}
CLI = ("cli", "demo", "__main__")
"""Files at the top that together are the command line."""
NO_LIGHTNING = ("errors", "version", "modalities", "missing", "models", "adapters", "export")
LONGEST_FILE = 400


def room(module: str) -> str:
    """``lightning_mm.data.module`` -> ``data``; the files of the command line are one room."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return "cli" if name.startswith(CLI) else name


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """All imports that can run, also inside functions; those under ``if TYPE_CHECKING`` never do."""
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.Import):
        yield from ((tree.lineno, alias.name) for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        assert tree.level == 0, f"line {tree.lineno}: write imports in full"
        # `from lightning_mm import data` names a room in what is imported.
        names = (
            [f"{tree.module}.{alias.name}" for alias in tree.names] if tree.module == "lightning_mm" else [tree.module]
        )
        yield from ((tree.lineno, str(name)) for name in names)
    for child in ast.iter_child_nodes(tree):
        yield from imports(child)


def imported(path: Path) -> list[tuple[int, str]]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_arrows_point_down(path: Path) -> None:
    own = room(module_of(path))
    if own == "__init__":
        pytest.skip("the package's own __init__ shows names of several rooms")
    for line, name in imported(path):
        if not name.startswith("lightning_mm"):
            continue
        other = room(name)
        where = f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
        if own == "testing":  # for users' tests and ours; needs little and nothing needs it
            assert other in ("testing", "errors", "modalities", "missing"), where
        elif other != own:
            assert RANKS.get(other, 99) < RANKS[own], f"{where}: {own} may not know {other}"


@pytest.mark.parametrize("path", [one for one in FILES if room(module_of(one)) in NO_LIGHTNING], ids=module_of)
def test_pure_torch_rooms_do_not_import_lightning(path: Path) -> None:
    names = [name for _, name in imported(path)]
    assert not [name for name in names if name.split(".")[0] in ("lightning", "pytorch_lightning", "wandb")]


def test_modalities_do_not_import_networks() -> None:
    assert not [name for _, name in imported(PACKAGE / "modalities.py") if name.startswith("torch.nn")]


def test_the_package_never_imports_experiments_or_tests() -> None:
    for path in FILES:
        assert not [name for _, name in imported(path) if name.split(".")[0] in ("experiments", "tests")], path


def test_every_room_has_a_place() -> None:
    rooms = {room(module_of(path)) for path in FILES} - {"__init__", "testing"}
    assert rooms <= set(RANKS), f"give {rooms - set(RANKS)} a place in RANKS, and in the list of DESIGN"


@pytest.mark.parametrize("path", [*FILES, *sorted((REPOSITORY / "tests").rglob("*.py"))], ids=str)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines: it is asking to be two"


def test_importing_the_package_does_not_import_lightning() -> None:
    code = "import sys, lightning_mm, lightning_mm.cli; sys.exit(any(m in sys.modules for m in ('lightning', 'wandb')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_the_lazy_export_is_there() -> None:
    import lightning_mm
    from lightning_mm.data import ModalityDropoutDataModule

    assert lightning_mm.ModalityDropoutDataModule is ModalityDropoutDataModule
    with pytest.raises(AttributeError, match="no attribute 'Modalties'"):
        lightning_mm.Modalties  # noqa: B018
