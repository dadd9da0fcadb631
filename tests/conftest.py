"""What every test shares: no network, one thread, outputs in temporary folders, and where real data may lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]

# Before anything imports wandb or matplotlib, which read these once.
os.environ.update({"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MPLBACKEND": "Agg"})
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread per process (tests run side by side) and no W&B folder in the working directory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield
    torch.set_num_threads(threads)


def find_root(variable: str, beside: str) -> Path:
    """The folder that an environment variable names, else one beside the repository; the test is skipped without it."""
    folder = Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / beside)
    if not folder.is_dir():
        pytest.skip(f"needs {variable}: {folder} is not a folder")
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds ``ombria/`` and the other real data sets."""
    return find_root("LIGHTNING_MM_DATA", "data")


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """The folder of reference numbers."""
    return find_root("LIGHTNING_MM_GOLDEN", "golden")
