"""What every test shares: checked types and shapes, no network, one thread, outputs in temporary folders, real data.

The type hook: every call of a function of the package is checked against its annotations, shapes included. It is ours
alone; users run without it, and so do these tests:

- all, with ``LIGHTNING_MM_NO_TYPE_HOOK=1``;
- those marked ``compiled``, in a process of their own: torch.compile and torch.export would trace the checks;
- those marked ``wrong_types``, which make the mistakes of a user who has no type checker, to see what we tell him.

A function that checks a tensor itself, so that its error can say more, is annotated with ``Tensor`` alone.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

import tests.support.type_checker  # noqa: F401, the hook looks it up
from tests.support.repository import REPOSITORY, find_root
from tests.support.type_hook import NO_TYPE_HOOK, TYPE_HOOK, WITHOUT_TYPE_HOOK, own_process

# Before anything imports wandb or matplotlib, which read these once.
os.environ.update({"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MPLBACKEND": "Agg"})
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_HOOK:
    assert "lightning_mm" not in sys.modules, "something imported lightning_mm before its types could be checked"
    # By their files: a package in the list would bring all that is in it.
    paths = (path for path in (REPOSITORY / "lightning_mm").rglob("*.py") if path.stem != "__init__")
    names = (".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths)
    install_import_hook([name for name in names if name not in WITHOUT_TYPE_HOOK], "tests.support.type_checker.check")


@pytest.fixture(autouse=True)
def types_may_be_wrong(request: pytest.FixtureRequest) -> Iterator[None]:
    """Switch the type hook off in a test marked ``wrong_types``."""
    if request.node.get_closest_marker("wrong_types") is None:
        yield
        return
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test marked ``compiled`` without the type hook, in a process of its own."""
    if not TYPE_HOOK or pyfuncitem.get_closest_marker("compiled") is None:
        return None
    command = own_process(pyfuncitem.nodeid, pyfuncitem.config.getoption("pythonwarnings"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    run = subprocess.run(
        command,
        cwd=pyfuncitem.config.rootpath,
        env={**environment, NO_TYPE_HOOK: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        pytest.fail(f"without the type hook:\n{run.stdout}\n{run.stderr}", pytrace=False)
    if " passed" not in run.stdout:
        pytest.skip(f"without the type hook: {run.stdout.strip().splitlines()[-1]}")
    return True


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
