"""The cost of a sweep over all 15 combinations of four modalities, relative to 15 separate test passes.

    python experiments/benchmarks/sweeps.py [--pairs 5] [--batches 8] [--only base ...] [--out FOLDER]

Both are timed from the start of their first batch to the end of their last one, in alternating pairs; the trial that
finds what a sweep may reuse is a part of the first batch. Absolute times only apply to one machine.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent))
from networks import four_encoders
from timing import Ratio, alternating, ratio, summarise, write

from lightning_mm.adapters import SSF, adapt
from lightning_mm.modalities import Modalities
from lightning_mm.sweep import sweep
from lightning_mm.tasks import ClassificationTask

HERE = Path(__file__).resolve().parent
NAMES = Modalities(["rgb", "depth", "thermal", "event"])
SIZE, BATCH = 64, 32
"""Pixels along an image; samples of a batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8, help="of one pass")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "benchmarks")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec|litlogger)")
    rows: list[Ratio] = []
    for part in options.only:
        for row in PARTS[part](options.pairs, options.batches):
            print(row.row(), flush=True)
            rows.append(row)
    write(rows, options.out, "sweeps", options.pairs)


def base(pairs: int, batches: int) -> Iterator[Ratio]:
    """Time a base without adapter."""
    task = make_task()
    share = share_of_encoders(task, pairs)
    yield share
    yield of_passes(f"base alone, encoders {share.median:.0%} of the cost", task, pairs, batches, limit="0.15")


def share(pairs: int, batches: int) -> Iterator[Ratio]:
    """Time bases with a more expensive head: what runs in every combination bounds what a sweep can save."""
    for depth in (2, 6):
        task = make_task(depth)
        part = share_of_encoders(task, pairs)
        yield of_passes(f"base alone, encoders {part.median:.0%} of the cost", task, pairs, batches)


def behind(pairs: int, batches: int) -> Iterator[Ratio]:
    """Time SSF on all layers but those of the encoders."""
    task = make_task(adapted=True, exclude=["encoders.*"])
    yield of_passes("SSF behind the encoders", task, pairs, batches, limit="0.25")


def layers(pairs: int, batches: int) -> Iterator[Ratio]:
    """Time SSF on all layers: encoders run for every combination, but not on samples that lack their modality."""
    task = make_task(adapted=True)
    yield of_passes("SSF on all layers", task, pairs, batches, limit="0.60", every_row=True)
    yield of_passes("SSF on all layers", task, pairs, batches)


PARTS: dict[str, Callable[[int, int], Iterator[Ratio]]] = {
    "base": base,
    "behind": behind,
    "layers": layers,
    "share": share,
}


def make_task(depth: int = 0, adapted: bool = False, **settings: Any) -> ClassificationTask:
    torch.manual_seed(0)
    network = four_encoders(NAMES, depth).eval()
    task = ClassificationTask(network, list(NAMES), num_classes=10)
    if adapted:
        example = (({name: torch.randn(2, 3, SIZE, SIZE) for name in NAMES},), {})
        adapter = adapt(network, NAMES, SSF(), example=example, **settings).adapter
        with torch.no_grad():
            for parameter in adapter.banks.parameters():
                parameter.normal_(0, 0.05)
        task.adapter = adapter
    return task


def share_of_encoders(task: ClassificationTask, pairs: int) -> Ratio:
    """Time the encoders of a network alone."""
    network: Any = task.model
    inputs = {name: torch.randn(BATCH, 3, SIZE, SIZE) for name in NAMES}

    def encode() -> list[Tensor]:
        return [encoder(inputs[name]) for name, encoder in network.encoders.items()]

    return ratio("encoders / network", encode, partial(network, inputs), 5 * pairs)


def of_passes(
    what: str, task: ClassificationTask, pairs: int, batches: int, limit: str = "", every_row: bool = False
) -> Ratio:
    """Compare a sweep with 15 test passes, each with the mask of one combination."""
    loaders = {name: loader(NAMES.mask(name), batches) for name in NAMES.combinations()}
    full = loaders[NAMES.full]
    adapter: Any = getattr(task, "adapter", None)

    def swept() -> float:
        clock = Clock()
        sweep(task, full, modalities=list(NAMES), trainer=trainer(clock), bootstrap=0, baseline=False)
        return clock.seconds

    def passes() -> float:
        seconds = 0.0
        for one in loaders.values():
            clock = Clock()
            if every_row:
                with adapter.every_row():
                    trainer(clock).test(task, one, verbose=False)
            else:
                trainer(clock).test(task, one, verbose=False)
            seconds += clock.seconds
        return seconds

    swept(), passes()
    times = alternating(swept, passes, pairs)
    against = "15 separate test passes" + (" with all rows encoded" if every_row else "")
    return summarise(f"{what}: sweep / {against}", times, limit)


class Clock(ProgressBar):
    """Measures the seconds of all batches; a sweep runs the progress bars of its trainer and no other callback."""

    seconds = 0.0

    def on_test_epoch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_test_epoch_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.started

    def disable(self) -> None:
        """Nothing is shown."""


def trainer(clock: Clock) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[clock],
    )


def loader(available: Tensor, batches: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    samples: Sequence[Any] = [
        {
            "inputs": {name: torch.randn(3, SIZE, SIZE, generator=generator) for name in NAMES},
            "target": row % 10,
            "available": available,
            "observed": torch.ones(len(NAMES), dtype=torch.bool),
            "index": row,
        }
        for row in range(batches * BATCH)
    ]
    return DataLoader(samples, batch_size=BATCH)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
