"""The cost of adaptation in networks of the literature: time and peak memory of a step, relative to full training.

    python experiments/benchmarks/reference_networks.py [--pairs 5] [--only NETWORK ...] [--out FOLDER]

Times are ratios of alternating pairs, with the milliseconds of the base. Peak memory is measured in a separate process
per measurement, above the resident size before it (Linux only).

To add a network, add an entry to ``NETWORKS``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from adapters import pair_of, step
from memory import resident
from timing import Ratio, ratio, write

from lightning_mm.adapters import SSF, Adapted, OneHot
from lightning_mm.modalities import Modalities
from lightning_mm.models import CMNeXt, MulT

HERE = Path(__file__).resolve().parent
RUNS = 2
"""Steps of one measurement of memory: the second one includes the optimizer states."""


@dataclass(frozen=True)
class Entry:
    """A network and the shapes of the batch that it is measured on."""

    make: Callable[[], nn.Module]
    modalities: Modalities
    batch: dict[str, tuple[int, ...]]
    """Modality to the shape of its inputs, batch first."""
    example: dict[str, tuple[int, ...]]
    """Smaller shapes, for the example that the layers are probed with."""
    exclude: tuple[str, ...] = ()
    """Patterns of layers that are not adapted."""

    def inputs(self) -> dict[str, Tensor]:
        return noise(self.batch)

    def available(self) -> Tensor:
        """Return a mask with only incomplete combinations in turn, as in adaptation."""
        size = next(iter(self.batch.values()))[0]
        masks = self.modalities.masks(self.modalities.incomplete())
        return masks[torch.arange(size) % len(masks)]

    def build(self) -> tuple[Adapted, nn.Module]:
        """Build the network with adapters, and a copy without."""
        example, left_out = noise(self.example), list(self.exclude)
        return pair_of(self.make, self.modalities, SSF(), OneHot(), example, positional=True, exclude=left_out)


def noise(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def images(names: list[str], batch: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (batch, 3, height, width))


def sequences(widths: dict[str, int], batch: int, steps: int) -> dict[str, tuple[int, ...]]:
    return {name: (batch, steps, width) for name, width in widths.items()}


RGB_T = ["rgb", "thermal"]
WIDTHS = {"text": 300, "audio": 5, "vision": 20}
NETWORKS = {
    "CMNeXt-B0, RGB + thermal, 2 x 480 x 640": Entry(
        lambda: CMNeXt("B0", RGB_T, 9),
        Modalities(RGB_T),
        images(RGB_T, 2, 480, 640),
        images(RGB_T, 2, 64, 64),
        ("head*",),
    ),
    "MulT, 24 x 50 steps": Entry(
        lambda: MulT(WIDTHS), Modalities(WIDTHS), sequences(WIDTHS, 24, 50), sequences(WIDTHS, 2, 8), ("head*",)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "benchmarks")
    parser.add_argument("--memory", nargs=2, metavar=("NETWORK", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        name, what = options.memory
        print(peak_here(NETWORKS[name], what))
        return
    rows: list[Ratio] = []
    for name in options.only:
        for row in measure(name, NETWORKS[name], options.pairs):
            print(row.row(), flush=True)
            rows.append(row)
    write(rows, options.out, "reference_networks", options.pairs)


def measure(name: str, entry: Entry, pairs: int) -> Iterator[Ratio]:
    """Measure time, then memory, of a forward, a full training step, and an adaptation step in a mixed batch."""
    adapted, plain = entry.build()
    batch, mixed = entry.inputs(), entry.available()
    forward = partial(plain, batch)
    routed = partial(adapted, batch, available=mixed)
    yield ratio(f"{name}: forward, SSF, mixed batch / base", routed, forward, pairs)
    full, ssf = step(plain.requires_grad_(True), forward), step(adapted, routed)
    yield ratio(f"{name}: SSF step, mixed batch / full training step", ssf, full, pairs, grad=True)
    del adapted, plain, full, ssf, forward, routed
    peaks = {what: peak(name, what) for what in STEPS}
    for what, base in (("ssf_forward", "forward"), ("ssf", "full")):
        share = peaks[what] / peaks[base]
        label = f"{name}: peak memory, {STEPS[what]} / {STEPS[base]} ({peaks[what]:.0f} and {peaks[base]:.0f} MB)"
        yield Ratio(label, share, share, share, 0.0, 1)


STEPS = {
    "forward": "forward",
    "ssf_forward": "forward, SSF, mixed batch",
    "full": "full training step",
    "ssf": "SSF step, mixed batch",
}


def peak(name: str, what: str) -> float:
    """Measure the peak memory in megabytes, in a separate process."""
    command = [sys.executable, str(HERE / "reference_networks.py"), "--memory", name, what]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak_here(entry: Entry, what: str) -> float:
    """Measure the peak memory of this process in megabytes, above that before the first step."""
    adapted, plain = entry.build()
    batch, mixed = entry.inputs(), entry.available()
    routed, forward = partial(adapted, batch, available=mixed), partial(plain, batch)
    with torch.no_grad():
        plain(noise(entry.example))  # exclude what the first call sets up
    run: Callable[[], object] = {"forward": forward, "ssf_forward": routed}.get(what) or (
        step(adapted, routed) if what == "ssf" else step(plain.requires_grad_(True), forward)
    )
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak to the current size
    before = resident("VmRSS")
    with torch.set_grad_enabled(what in ("full", "ssf")):
        for _ in range(RUNS):
            run()
    return (resident("VmHWM") - before) / 1024


if __name__ == "__main__":
    main()
