"""Worker for one checkout: runs the work once per line on standard input, and prints a line when it is done."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "disabled")
sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    import torch
    from two_checkouts import WORK

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    name = sys.argv[1]
    answers, sys.stdout = sys.stdout, sys.stderr  # keep what the work prints out of the answers
    run = WORK[name]()
    with torch.set_grad_enabled("step" in name):
        for _ in sys.stdin:
            run()
            print("done", file=answers, flush=True)


if __name__ == "__main__":
    main()
