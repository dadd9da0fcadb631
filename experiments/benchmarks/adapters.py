"""What adapters cost: time of the adapted and the folded network over the time of the base, in alternating pairs.

    python experiments/benchmarks/adapters.py [--pairs 20] [--out outputs/benchmarks]

The machine drifts, so every ratio is taken between neighbours in time; the table gives the median and the 95 %
bootstrap interval of the median. Absolute times are of this machine only.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lightning_mm.adapters import SSF, Adapted, Additive, OneHot, adapt
from lightning_mm.modalities import Modalities
from lightning_mm.models import MultiEncoderSegmenter

CHANNELS = {"rgb": 3, "depth": 1, "thermal": 1, "event": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    options = parser.parse_args()

    names = Modalities(CHANNELS)
    torch.manual_seed(0)
    network = MultiEncoderSegmenter(CHANNELS, 4, "resnet18", encoder_depth=4, decoder_channels=[128, 64, 32, 16])
    network.eval()
    batch = {name: torch.randn(15, width, options.size, options.size) for name, width in CHANNELS.items()}
    mixed, full = names.masks(), torch.ones(15, 4, dtype=torch.bool)

    rows = []
    for basis in (OneHot(), Additive()):
        adapted = adapt(network, names, SSF(), basis=basis, example=(({n: v[:2] for n, v in batch.items()},), {}))
        spread(adapted)
        label, one = type(basis).__name__, names.mask("rgb").expand(15, -1)
        for what, available in (("mixed batch of 15 combinations", mixed), ("full combination", full)):
            found = ratios(
                partial(adapted, batch, available=available), without(adapted, batch, available), options.pairs
            )
            rows.append((f"{label}: {what} / base", *found))
        found = ratios(partial(adapted.fold("rgb"), batch), without(adapted, batch, one), options.pairs)
        rows.append((f"{label}: folded for rgb / base", *found))
        adapted.remove()
    rows.append(("SSF training step / full fine-tuning step", *training(names, batch, mixed, options.pairs)))

    lines = ["| what | median | 95 % interval |", "|---|---|---|"]
    lines += [f"| {what} | {median:.3f} | {low:.3f} to {high:.3f} |" for what, median, low, high in rows]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "adapters.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    results = {
        "rows": [dict(zip(("what", "median", "low", "high"), row)) for row in rows],
        "pairs": options.pairs,
        **machine,
    }
    (options.out / "adapters.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines))


def spread(adapted: Adapted) -> None:
    """Move the banks away from the identity, as after training."""
    with torch.no_grad():
        for parameter in adapted.adapter.banks.parameters():
            parameter.normal_(0, 0.1)


def without(adapted: Adapted, batch: dict[str, torch.Tensor], available: torch.Tensor) -> Callable[[], object]:
    """The same call with the banks off: the hooks stay, but do nothing."""

    def call() -> object:
        with adapted.adapter.disabled():
            return adapted(batch, available=available)

    return call


def ratios(ours: Callable[[], object], base: Callable[[], object], pairs: int) -> tuple[float, float, float]:
    """Median of time(ours) / time(base) over alternating pairs, with the 95 % bootstrap interval of the median."""
    found = []
    with torch.no_grad():
        for _ in range(3):
            ours(), base()
        for pair in range(pairs):
            order = (ours, base) if pair % 2 == 0 else (base, ours)
            first, second = (clock(call) for call in order)
            found.append(first / second if pair % 2 == 0 else second / first)
    return interval(found)


def training(
    names: Modalities, batch: dict[str, torch.Tensor], mixed: torch.Tensor, pairs: int
) -> tuple[float, float, float]:
    """One optimizer step of the adapter over one of the whole network, in alternating pairs."""
    torch.manual_seed(0)
    whole, frozen = (
        MultiEncoderSegmenter(CHANNELS, 4, "resnet18", encoder_depth=4, decoder_channels=[128, 64, 32, 16])
        for _ in range(2)
    )
    adapted = adapt(frozen, names, SSF(), basis=Additive(), example=(({n: v[:2] for n, v in batch.items()},), {}))
    full_step = stepper(whole, lambda: whole(batch, mixed))
    adapter_step = stepper(adapted, lambda: adapted(batch, available=mixed))
    found = []
    for _ in range(2):
        adapter_step(), full_step()
    for _ in range(pairs):
        found.append(clock(adapter_step) / clock(full_step))
    return interval(found)


def stepper(module: nn.Module, forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        forward().square().mean().backward()
        optimizer.step()

    return step


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interval(values: list[float]) -> tuple[float, float, float]:
    draws = np.random.default_rng(0).choice(np.array(values), (2000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


if __name__ == "__main__":
    main()
