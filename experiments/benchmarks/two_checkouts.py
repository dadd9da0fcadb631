"""Check that a change made nothing slower: two checkouts, each in a separate process, timed in alternating pairs.

    git worktree add ../before COMMIT
    python experiments/benchmarks/two_checkouts.py ../before [--pairs 30] [--only step ...] [--out FOLDER]

Ratios are new / old: medians with a 95 % bootstrap interval. Only public names that both checkouts have are used.
Where a process happens to lay its memory changes a time by up to 20 %: both are started anew for each round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
LIMIT = "1.03"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the older checkout")
    parser.add_argument("--pairs", type=int, default=30, help="of all rounds together")
    parser.add_argument("--rounds", type=int, default=6, help="each with two new processes")
    parser.add_argument("--only", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "benchmarks")
    options = parser.parse_args()
    from timing import Ratio, summarise, timed_pairs, write

    rows: list[Ratio] = []
    for name in options.only:
        times = []
        for _ in range(options.rounds):
            with ExitStack() as stack:
                new, old = (stack.enter_context(Worker(folder, name)) for folder in (HERE.parents[1], options.before))
                times += timed_pairs(new, old, max(1, options.pairs // options.rounds))
        rows.append(summarise(f"{name}: new / old", times, LIMIT))
        print(rows[-1].row(), flush=True)
    write(rows, options.out, "two_checkouts", options.pairs)


class Worker:
    """A process that runs one piece of work with one checkout each time it is called."""

    def __init__(self, checkout: Path, name: str) -> None:
        self.command = [sys.executable, str(HERE / "two_checkouts_worker.py"), name]
        self.environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}

    def __enter__(self) -> Worker:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True, env=self.environment)
        self()
        return self

    def __call__(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise SystemExit(f"the worker of {self.environment['PYTHONPATH']} stopped, see above")

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def transformer(kind: str, basis: str, grad: bool) -> Callable[[], object]:
    from adapters import LORA_LAYERS, pair_of, step
    from networks import TOKENS, TokenTransformer, tokens

    from lightning_mm import adapters
    from lightning_mm.modalities import Modalities

    names, batch = Modalities(TOKENS), tokens()
    made = adapters.SSF() if kind == "SSF" else adapters.LoRA(8, layers=LORA_LAYERS)
    adapted, _ = pair_of(TokenTransformer, names, made, getattr(adapters, basis)(), tokens(2))
    forward = partial(adapted, **batch, available=names.masks().repeat(3, 1)[:32])
    return step(adapted, forward) if grad else forward


def segmenter_mixed(grad: bool) -> Callable[[], object]:
    from adapters import pair_of, step
    from networks import CHANNELS, images, segmenter

    from lightning_mm.adapters import SSF, OneHot
    from lightning_mm.modalities import Modalities

    names = Modalities(CHANNELS)
    adapted, _ = pair_of(segmenter, names, SSF(), OneHot(), images(2), positional=True)
    forward = partial(adapted, images(), available=names.masks())
    return step(adapted, forward) if grad else forward


def sweep_of_15() -> Callable[[], object]:
    """Return a sweep over all combinations of four modalities, of a segmenter with and without its adapter."""
    import torch
    from adapters import pair_of
    from networks import CHANNELS, images, segmenter
    from torch.utils.data import DataLoader

    from lightning_mm.adapters import SSF, OneHot
    from lightning_mm.modalities import Modalities
    from lightning_mm.sweep import sweep
    from lightning_mm.tasks import SemanticSegmentationTask

    names = Modalities(CHANNELS)
    adapted, _ = pair_of(segmenter, names, SSF(), OneHot(), images(2), positional=True)
    task = SemanticSegmentationTask(model=adapted.base, modalities=list(names), num_classes=4)
    task.adapter = adapted.adapter
    every = torch.ones(4, dtype=torch.bool)
    samples = [
        {
            "inputs": {name: value[row] for name, value in images(8).items()},
            "target": torch.full((64, 64), row % 4),
            "available": every,
            "observed": every,
            "index": row,
        }
        for row in range(8)
    ]
    loader: Any = DataLoader(samples, batch_size=8)  # type: ignore[arg-type]
    return lambda: sweep(task, loader, modalities=list(names), bootstrap=0)


WORK: dict[str, Callable[[], Callable[[], object]]] = {
    **{
        f"transformer, {kind}, {basis}, {'step' if grad else 'mixed forward'}": partial(transformer, kind, basis, grad)
        for kind in ("SSF", "LoRA")
        for basis in ("OneHot", "Additive")
        for grad in (False, True)
    },
    "segmenter, SSF, mixed forward": partial(segmenter_mixed, False),
    "segmenter, SSF, step": partial(segmenter_mixed, True),
    "segmenter, SSF, sweep of 15 combinations": sweep_of_15,
}


if __name__ == "__main__":
    main()
