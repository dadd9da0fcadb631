"""Runs a function on several gloo ranks of this machine, each in a process."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

OnRank = Callable[[int, Path], None]
"""What a rank does: its number, and a folder that all ranks see; a function of a module."""


def run_ranks(function: OnRank, folder: Path, ranks: int = 2, start: Literal["spawn", "fork"] = "spawn") -> None:
    """Run a function on each rank of a process group; ``fork`` starts sooner, from what this process has imported."""
    torch.multiprocessing.start_processes(_rank, (function, folder, ranks), nprocs=ranks, start_method=start)


def _rank(rank: int, function: OnRank, folder: Path, ranks: int) -> None:
    warnings.simplefilter("ignore")
    store = torch.distributed.FileStore(str(folder / "store"), ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    function(rank, folder)
    # What still holds the group, such as DDP's reducer, would end its threads only while the interpreter ends, and a
    # rank that is ahead would close the connection of one that is not: either ended a process with SIGABRT.
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
