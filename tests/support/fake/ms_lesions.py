"""Small generated files of MsLesions in the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
SIZES = {"07": (20, 10, 14), "19": (15, 12, 12), "26": (5, 9, 15)}
"""Slices, x and y of the generated patients."""


def arrays(patient: str) -> Arrays:
    """Modalities differ in brightness, patients too; two pixels all around the brain are 0."""
    slices, x, y = SIZES[patient]
    rng = np.random.default_rng(int(patient))
    brain = np.zeros((slices, 1, x, y), bool)
    brain[:, :, 2:-2, 2:-2] = True
    level = np.array([80, 280, 290, 330]).reshape(4, 1, 1)
    image = np.where(brain, rng.normal(level, 0.2 * level, (slices, 4, x, y)) + int(patient), 0).astype(np.float32)
    mask = (brain[:, 0] & (rng.uniform(size=(slices, x, y)) < 0.2)).astype(np.uint8)
    return {
        **{"image": image, "mask": mask, "z": 40 + np.arange(slices), "x0": np.array(27), "y0": np.array(29)},
        "modalities": np.array(["FLAIR", "T1", "T1POST", "T2"]),
    }


def path_of(root: str | Path, patient: str) -> Path:
    return Path(root) / f"patient{patient}_lesion_slices.npz"


def write(root: Path, spoiled: dict[str, Arrays] | None = None) -> str:
    root.mkdir(exist_ok=True, parents=True)
    for patient in SIZES:
        np.savez(path_of(root, patient), **{**arrays(patient), **(spoiled or {}).get(patient, {})})
    return str(root)
