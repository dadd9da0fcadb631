"""What `torch.compile` saves in a network of many small layers: MulT with SSF, relative to the base and full training.

    python experiments/benchmarks/compiled.py [--pairs 15] [--out FOLDER]

Needs a C++ compiler, and minutes for compilation, which are printed and not in the ratios. Times are ratios of
alternating pairs; absolute times only apply to one machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from adapters import step
from reference_networks import NETWORKS
from timing import Ratio, ratio, write

HERE = Path(__file__).resolve().parent
NAME = "MulT, 24 x 50 steps"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in measure(options.pairs):
        print(row.row(), flush=True)
        rows.append(row)
    write(rows, options.out, "compiled", options.pairs)


def measure(pairs: int) -> Iterator[Ratio]:
    """Time a forward, then a step, each eager and compiled."""
    adapted, plain = NETWORKS[NAME].build()
    batch, mixed = NETWORKS[NAME].inputs(), NETWORKS[NAME].available()
    routed, forward = partial(adapted, batch, available=mixed), partial(plain, batch)
    fast_routed = partial(torch.compile(adapted, fullgraph=True), batch, available=mixed)
    fast_forward = partial(torch.compile(plain, fullgraph=True), batch)
    what = f"{NAME}: forward, SSF, mixed batch / base"
    yield ratio(what, routed, forward, pairs, "1.2")
    with torch.no_grad():
        warm_up("forward of the adapted network", fast_routed)
        warm_up("forward of the base", fast_forward)
    yield ratio(f"{what}, both compiled", fast_routed, fast_forward, pairs, "1.2")
    yield ratio(f"{what}, SSF compiled", fast_routed, forward, pairs, "1.2")
    plain.requires_grad_(True)
    ssf, full = step(adapted, routed), step(plain, forward)
    fast_ssf, fast_full = step(adapted, fast_routed), step(plain, fast_forward)
    what = f"{NAME}: SSF step, mixed batch / full training step"
    yield ratio(what, ssf, full, pairs, "0.9", grad=True)
    warm_up("step of the adapted network", fast_ssf)
    yield ratio(f"{what}, SSF compiled", fast_ssf, full, pairs, "0.9", grad=True)
    warm_up("step of the base", fast_full)
    yield ratio(f"{what}, both compiled", fast_ssf, fast_full, pairs, "0.9", grad=True)


def warm_up(what: str, run: Callable[[], object]) -> None:
    """Compile, and print the seconds of it."""
    started = time.perf_counter()
    run()
    print(f"compilation, {what}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
