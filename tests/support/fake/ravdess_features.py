"""Small generated files of RavdessFeatures in the true layout."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from lightning_mm.data import RavdessFeatures
from lightning_mm.data.datasets.ravdess_features import ACTORS, FILES

GAPS = ("cpp_mean", "cpp_var")
"""Features of audio that most clips lack, as in the release."""
Rows = dict[str, list[dict[str, str]]]


def names(modality: str) -> list[str]:
    own = list(GAPS) if modality == "audio" else []
    return [*(f"{modality}{place}" for place in range(RavdessFeatures.channels[modality] - len(own))), *own]


def rows(actors: int = ACTORS, clips: int = 2, seed: int = 0) -> Rows:
    """Some clips of every actor, in no order; the first feature is the actor, the second constant for the first 14."""
    rng = np.random.default_rng(seed)
    found: Rows = {}
    for modality, file in FILES.items():
        lines = []
        for actor in range(1, actors + 1):
            for clip in range(clips):
                emotion = (actor + 3 * clip) % len(RavdessFeatures.class_names)
                values = rng.normal(5, 3, RavdessFeatures.channels[modality])
                values[0] = actor
                values[1] = 0.1 if actor <= 14 else rng.normal()
                line = {name: repr(float(value)) for name, value in zip(names(modality), values)}
                if modality == "audio" and (actor + clip) % 4:
                    line |= dict.fromkeys(GAPS, "")
                suffix = "wav" if modality == "audio" else "mp4"
                facts = {
                    "file": f"01-01-{emotion + 1:02d}-01-01-{clip + 1:02d}-{actor:02d}.{suffix}",
                    "emotion": RavdessFeatures.class_names[emotion],
                    **{"intensity": "1", "actor": str(actor), "gender": "male" if actor % 2 else "female"},
                }
                lines.append({**line, **facts})
        rng.shuffle(lines)
        found[file] = lines
    return found


def write(root: Path, content: Rows | None = None) -> Path:
    root.mkdir(exist_ok=True, parents=True)
    for file, lines in (rows() if content is None else content).items():
        with (root / file).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    return root
