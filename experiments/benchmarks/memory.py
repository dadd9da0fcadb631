"""Peak memory of training, each kind in a separate process: the peak resident size above that before training.

Linux only: the peak recorded by the kernel is reset when training starts.

python experiments/benchmarks/memory.py "ssf|ssf copying|full"     # prints megabytes
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent


def peak_of_training(what: str) -> float:
    """Measure in megabytes; ``what`` is ``ssf``, ``ssf copying`` (no output is modified in place) or ``full``."""
    command = [sys.executable, str(HERE / "memory.py"), what]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    import torch

    sys.path.insert(0, str(HERE))
    from adapters import pair_of, step
    from networks import TOKENS, TokenTransformer, tokens

    from lightning_mm.adapters import SSF, OneHot
    from lightning_mm.adapters.layers import in_place
    from lightning_mm.modalities import Modalities

    names, batch = Modalities(TOKENS), tokens()
    mixed = names.masks().repeat(3, 1)[:32]
    adapted, whole = pair_of(TokenTransformer, names, SSF(), OneHot(), tokens(2))
    with torch.no_grad():
        whole(**tokens(1))  # exclude what the first call sets up
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak to the current size
    before = resident("VmRSS")
    in_place.ENABLED = sys.argv[1] != "ssf copying"
    if sys.argv[1].startswith("ssf"):
        run = step(adapted, partial(adapted, **batch, available=mixed))
    else:
        run = step(whole.requires_grad_(True), partial(whole, **batch))
    for _ in range(3):
        run()
    print((resident("VmHWM") - before) / 1024)


def resident(what: str) -> int:
    """Read the resident size in kilobytes, current (``VmRSS``) or peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


if __name__ == "__main__":
    main()
