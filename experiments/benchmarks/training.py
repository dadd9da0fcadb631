"""The cost of training around the network: Lightning with tasks, callbacks and data module, and a second process.

    python experiments/benchmarks/training.py [--pairs 9] [--steps 12] [--only loop ranks kept] [--out FOLDER]

`loop` compares a fit of an adapter by ``Trainer`` with a loop in plain torch on the same network, samples and masks,
from the first batch to the last, in CPU time. `ranks` compares two processes that exchange gradients with the same two
processes that do not, which is the ideal, and with one that is alone. `kept` compares fits that keep the outputs of
encoders with fits that do not, on UtdMhad (needs ``LIGHTNING_MM_DATA``). Absolute times only apply to one machine.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent))
from networks import two_encoders
from timing import Ratio, alternating, summarise, write

from lightning_mm.adapters import SSF, Adapted, Additive, LoRA, adapt
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.cli.allocator import keep_freed_memory
from lightning_mm.data import ModalityDropoutDataModule, UtdMhad
from lightning_mm.missing import UniformCombinations
from lightning_mm.modalities import Modalities
from lightning_mm.models import LateFusionClassifier, SequenceEncoder
from lightning_mm.tasks import ClassificationTask

HERE = Path(__file__).resolve().parent
NAMES = Modalities(["rgb", "depth"])
SIZE, BATCH = 64, 32
"""Pixels along an image; samples of a batch."""
POLICY = UniformCombinations(include_full=False)


class Images(Dataset[dict[str, Any]]):
    """Random images in memory."""

    def __init__(self, length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = {name: torch.randn(length, 3, SIZE, SIZE, generator=generator) for name in NAMES}
        self.masks = POLICY.draw(NAMES, range(length), epoch=0, seed=0)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": {name: images[index] for name, images in self.images.items()}, "target": index % 10}


class WithMasks(Images):
    """The same samples with their masks, for a loader of plain torch."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "available": self.masks[index]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12, help="of one measurement")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "benchmarks")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()  # as `lightning-mm fit` does; otherwise a quarter of both times is the system's, and noise
    rows: list[Ratio] = []
    for part in options.only:
        for row in PARTS[part](options.pairs, options.steps):
            print(row.row(), flush=True)
            rows.append(row)
    write(rows, options.out, "training", options.pairs)


def loop(pairs: int, steps: int) -> Iterator[Ratio]:
    """Time Lightning's loop against one of plain torch, over some steps: what an epoch costs once is in both."""
    steps *= 4
    dataset, same = Images(steps * BATCH), WithMasks(steps * BATCH)
    module = ModalityDropoutDataModule(lambda split: dataset, list(NAMES), train_policy=POLICY, batch_size=BATCH)
    task = made_task()
    adapted = made("SSF")

    def lightning() -> float:
        clock = Clock()
        trainer = Trainer(
            accelerator="cpu", devices=1, max_epochs=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
            enable_model_summary=False, enable_progress_bar=False, callbacks=[FrozenBackboneAdapter(), clock],
        )  # fmt: skip
        trainer.fit(task, datamodule=module)
        return clock.seconds

    def plain() -> float:
        optimizer = torch.optim.AdamW(adapted.adapter.parameters(), lr=1e-3)
        loader = DataLoader(same, BATCH, shuffle=True)
        started = time.process_time()
        for batch in loader:
            step(adapted, optimizer, batch["inputs"], batch["available"], batch["target"])
        return time.process_time() - started

    lightning(), plain()
    yield summarise(
        "SSF: Trainer with task, FrozenBackboneAdapter and data module / plain torch",
        alternating(lightning, plain, pairs),
        limit="1.05",
    )


def ranks(pairs: int, steps: int) -> Iterator[Ratio]:
    """Time two processes."""
    for kind in ("SSF", "LoRA", "whole network"):
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.start_processes(on_rank, (folder, kind, pairs, steps), nprocs=2, start_method="fork")
            times: list[tuple[float, float, float]] = torch.load(Path(folder) / "times.pt")
        together = [(exchanged, apart) for exchanged, apart, _ in times]
        yield summarise(f"{kind}, 2 processes: gradients exchanged / not exchanged", together)
        alone = [(exchanged, one) for exchanged, _, one in times]
        yield summarise(f"{kind}: 2 processes on twice the samples / 1 process", alone)


def on_rank(rank: int, folder: str, kind: str, pairs: int, steps: int) -> None:
    """Measure in one of two processes: with an exchange of gradients, without, and without in the first one alone."""
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    network = made(kind)
    optimizer = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], lr=1e-4)
    parallel = nn.parallel.DistributedDataParallel(network)
    generator = torch.Generator().manual_seed(rank)
    inputs = {name: torch.randn(BATCH, 3, SIZE, SIZE, generator=generator) for name in NAMES}
    available, target = POLICY.draw(NAMES, range(BATCH), epoch=0, seed=rank), torch.arange(BATCH) % 10

    def seconds(module: nn.Module, runs: bool = True) -> float:
        dist.barrier()
        started = time.perf_counter()
        for _ in range(steps if runs else 0):
            step(module, optimizer, inputs, available, target)
        dist.barrier()
        return time.perf_counter() - started

    seconds(parallel)
    times = []
    for pair in range(pairs):
        order = [(parallel, True), (network, True), (network, rank == 0)]
        found = [seconds(*one) for one in (order if pair % 2 == 0 else reversed(order))]
        times.append(tuple(found if pair % 2 == 0 else reversed(found)))
    if rank == 0:
        torch.save(times, f"{folder}/times.pt")
    dist.destroy_process_group()


def kept(pairs: int, steps: int) -> Iterator[Ratio]:
    """Time fits of SSF behind the encoders of UtdMhad (323 clips, batches of 32), with random weights."""
    splits = {split: UtdMhad(split, frames=64, stride=4) for split in ("train", "val")}
    names = ["skeleton", "accelerometer", "gyroscope"]
    module = ModalityDropoutDataModule(lambda split: splits[split], names, train_policy=POLICY, batch_size=32)

    def epochs(keep: dict[str, Any] | None, number: int) -> list[float]:
        torch.manual_seed(0)
        encoders = {name: SequenceEncoder(60 if name == "skeleton" else 3, 72, 72, kernel_size=9) for name in names}
        network = LateFusionClassifier(encoders, 27, fusion="concat", mask_absent=False, dropout=0.4)
        optimizer: Any = lambda groups: torch.optim.AdamW(groups, lr=0.03)  # noqa: E731
        task = ClassificationTask(network, names, num_classes=27, optimizer=optimizer)
        clock = Clock()
        callbacks = [
            FrozenBackboneAdapter(basis=Additive(), exclude=["encoders*"], keep_encoder_outputs=keep), clock
        ]  # fmt: skip
        trainer = Trainer(
            accelerator="cpu", devices=1, max_epochs=number, limit_val_batches=0, logger=False,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, callbacks=callbacks,
        )  # fmt: skip
        trainer.fit(task, datamodule=module)
        return clock.epochs

    def seconds(keep: dict[str, Any] | None, number: int, first: int) -> float:
        return sum(epochs(keep, number)[first:])

    what = "SSF on fusion and head of UtdMhad, encoder outputs kept / not kept"
    for label, number, first in (("epoch 8 of a fit", 8, 7), ("fit of 40 epochs", 40, 0)):
        ours, base = (partial(seconds, keep, number, first) for keep in ({"where": "memory"}, None))
        yield summarise(f"{what}: {label}", alternating(ours, base, pairs))


def step(module: nn.Module, optimizer: Any, inputs: dict[str, Tensor], available: Tensor, target: Tensor) -> None:
    optimizer.zero_grad()
    adapted = isinstance(getattr(module, "module", module), Adapted)
    outputs = module(inputs, available=available) if adapted else module(inputs)
    F.cross_entropy(outputs, target).backward()
    optimizer.step()


def made(kind: str) -> nn.Module:
    """A network with an adapter of a kind, or one that trains as a whole."""
    torch.manual_seed(0)
    network = two_encoders()
    if kind == "whole network":
        return network
    example = ({name: torch.randn(2, 3, SIZE, SIZE) for name in NAMES},)
    return adapt(network, NAMES, SSF() if kind == "SSF" else LoRA(4), example=(example, {}))


def made_task() -> ClassificationTask:
    torch.manual_seed(0)
    optimizer: Any = lambda groups: torch.optim.AdamW(groups, lr=1e-3)  # noqa: E731
    return ClassificationTask(two_encoders(), list(NAMES), num_classes=10, optimizer=optimizer)


class Clock(Callback):
    """Measures the CPU seconds of an epoch of training: one process on one thread, whatever else the machine does."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    @property
    def seconds(self) -> float:
        """Of the last epoch."""
        return self.epochs[-1]

    def on_train_epoch_start(self, *_: Any) -> None:
        self.started = time.process_time()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs.append(time.process_time() - self.started)


PARTS: dict[str, Callable[[int, int], Iterator[Ratio]]] = {"loop": loop, "ranks": ranks, "kept": kept}


if __name__ == "__main__":
    main()
