"""Warns a fit on a real Slurm at six named moments, on one and on two nodes, and compares it with one left alone.

Run by hand, since it takes minutes (``test_requeue.py`` runs one of the cases), with a Slurm that ``sbatch`` finds::

    tests/support/slurm_loopback.sh start /tmp/slurm-moments 17201
    export SLURM_CONF=/tmp/slurm-moments/slurm.conf MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1
    python -m tests.cluster.moments /tmp/moments
    tests/support/slurm_loopback.sh stop /tmp/slurm-moments
"""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path

from tests.support.moments import MOMENTS, Fit, submit_fit
from tests.support.repository import REPOSITORY

HEAD = "| nodes | warned | ended | queued again | went on from step | same adapters | same batches | seconds |"


def row(fit: Fit, whole: Fit, nodes: int, moment: str) -> tuple[str, bool]:
    """A line of the table, and whether all is as it must be."""
    facts = fit.wait()
    if facts["JobState"] != "COMPLETED":
        return f"| {nodes} | {moment} | {facts['JobState']}: see {fit.folder} | | | | | |", False
    steps = re.findall(r"resume\.ckpt, step (\d+)", fit.log)
    equal, same = fit.is_equal(whole), fit.batches == whole.batches and len(fit.batches) == nodes
    once = facts["Restarts"] == "1"
    cells = [nodes, moment, facts["JobState"], facts["Restarts"], steps[0] if steps else "the start", equal, same]
    return f"| {' | '.join(map(str, [*cells, facts['RunTime']]))} |", equal and same and once


def main() -> None:
    """Run all cases, and print a table of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the runs; empty or not there")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--moments", nargs="+", default=MOMENTS, choices=MOMENTS, metavar="MOMENT")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    start, good = time.monotonic(), True
    print(f"{HEAD}\n|{'---|' * HEAD.count(' | ')}---|", flush=True)
    for nodes in options.nodes:
        fits = {moment: submit_fit(options.folder, nodes, moment) for moment in ("", *options.moments)}
        whole = fits.pop("")
        assert whole.wait()["JobState"] == "COMPLETED", whole.log
        for moment, fit in fits.items():
            line, is_good = row(fit, whole, nodes, moment)
            print(line, flush=True)
            good = good and is_good
    print(f"{time.monotonic() - start:.0f} s")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
