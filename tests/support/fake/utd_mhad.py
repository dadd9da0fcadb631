"""Small generated files of UTD-MHAD in the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_mm.data.datasets.utd_mhad import FILE

Arrays = dict[str, np.ndarray]


def arrays(actions: int = 2, seed: int = 0) -> Arrays:
    """All subjects and trials of the first and the last actions; people stand apart and differ in height."""
    rng = np.random.default_rng(seed)
    chosen = [1, *range(28 - (actions - 1), 28)]
    keys = np.array([(a, s, t) for a in chosen for s in range(1, 9) for t in range(1, 5)])
    short, long = rng.integers(4, 9, len(keys)), rng.integers(9, 20, len(keys))
    people = [
        (1 + 0.05 * s) * (rng.standard_normal((n, 20, 3)) + np.arange(60).reshape(20, 3)) + [s, -s, 3]
        for n, (_, s, _) in zip(short, keys)
    ]
    inertial = rng.standard_normal((long.sum(), 6)) * [1, 1, 2, 100, 50, 80] + [0, 1, 0, 5, 0, 0]
    action, subject, trial = keys.T
    return {
        **{"inertial": inertial, "inertial_len": long, "skeleton": np.concatenate(people), "skeleton_len": short},
        **{"action": action, "subject": subject, "trial": trial},
    }


def write(root: Path, content: Arrays | None = None) -> str:
    root.mkdir(exist_ok=True, parents=True)
    np.savez(root / FILE, **(arrays() if content is None else content))
    return str(root)
