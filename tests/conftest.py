"""What every test shares: checked types and shapes, no network, one thread, outputs in temporary folders, real data.

The type hook: every call of a function of the package is checked against its annotations, shapes included. Users run
without it, and so do these tests:

- all, with ``LIGHTNING_MM_NO_TYPE_HOOK=1``;
- those marked ``compiled``: torch.compile and torch.export would trace the checks;
- those marked ``wrong_types``, which make the mistakes of a user without a type checker, to see our errors.

A function that checks a tensor itself, so that its error can say more, is annotated with ``Tensor`` alone.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.support.repository import find_root
from tests.support.type_checker import unchecked
from tests.support.type_hook import TYPE_HOOK, install_type_hook

# Before anything imports wandb or matplotlib, which read these once.
os.environ.update({"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MPLBACKEND": "Agg"})
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_HOOK:
    install_type_hook()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--part K/N``."""
    parser.addoption("--part", metavar="K/N", help="of the slow tests, run part K of N only; the quick ones all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the slow tests of other parts; which part a test is in depends on its name alone."""
    part = config.getoption("--part")
    if part is None:
        return
    number, _, parts = part.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise pytest.UsageError(f"--part expects K/N with K from 1 to N, such as 1/4, got {part}")
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in slow if not _is_in_part(item, int(number), int(parts))]
    config.hook.pytest_deselected(items=others)
    left_out = set(others)
    items[:] = [item for item in items if item not in left_out]


def _is_in_part(item: pytest.Item, number: int, parts: int) -> bool:
    return zlib.crc32(item.nodeid.encode()) % parts == number - 1


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers alone and after others."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def types_may_be_wrong(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check no types in a test marked ``compiled`` or ``wrong_types``."""
    marks = {mark.name for mark in request.node.iter_markers()}
    if not marks & {"compiled", "wrong_types"}:
        yield
        return
    if "compiled" in marks:
        torch.compiler.reset()  # what earlier tests compiled counts against the limit of graphs of a function
    with unchecked():
        yield


@pytest.fixture(autouse=True, scope="session")
def quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread per process (tests run side by side) and no W&B folder in the working directory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds ``ombria/`` and the other real data sets."""
    return find_root("LIGHTNING_MM_DATA", "data")


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """The folder of reference numbers."""
    return find_root("LIGHTNING_MM_GOLDEN", "golden")


@pytest.fixture(scope="session")
def recipe(golden_root: Path) -> ModuleType:
    """The script that makes the weights anew."""
    spec = importlib.util.spec_from_file_location("golden_recipe", golden_root / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
