"""A small result of a sweep with everything that a file of one can hold."""

from __future__ import annotations

import numpy as np

from lightning_mm.modality_names import ModalityNames
from lightning_mm.provenance import DataFingerprint
from lightning_mm.results import SweepResult, SweepRow
from lightning_mm.results.bootstrap import Bootstrap


def small_sweep() -> SweepResult:
    """Two methods on all combinations of two modalities, with samples and replicates."""
    rng, rows, samples, replicates = np.random.default_rng(0), [], {"index": np.arange(6)}, {}
    samples["observed"] = np.ones((6, 2), dtype=bool)
    for method in ("zero_fill", "adapted"):
        for combination in ("rgb", "depth", "rgb+depth"):
            value = round(float(rng.random()), 4)
            size = len(combination.split("+"))
            rows.append(SweepRow(method, combination, size, "accuracy", value, 6, 0, value - 0.1, value + 0.1))
            samples[f"{method}/{combination}/target"] = np.arange(6) % 3
            replicates[method, combination, "accuracy"] = rng.random(5).astype(np.float32).astype(np.float64)
    return SweepResult(
        rows,
        ["rgb", "depth"],
        "accuracy",
        {"accuracy": "max"},
        {"zero_fill": {"trained": 0, "base": 40}, "adapted": {"trained": 4, "base": 40}},
        {"split": "test", "seed": 0, "data": {"dataset": {"class_path": "lightning_mm.data.Scenes"}}},
        samples,
        Bootstrap("seed=0 replicates=5 samples=6 index=0", replicates, level=0.95),
        {"adapted": 1.5},
        ["a note"],
        {"zero_fill": {"flops": 800, "memory": 160}, "adapted": {"flops": 816, "memory": 320}},
        {"zero_fill": 0.001, "adapted": 0.002},
        DataFingerprint("0a" * 32, {"rgb": "1b" * 32, "depth": "2c" * 32}),
    )


def classified(seed: int = 0, modalities: tuple[str, ...] = ("rgb", "depth"), samples: int = 30) -> SweepResult:
    """Two methods that classify three classes on all combinations, with what the sweep stores of every sample."""
    names, rng = ModalityNames(modalities), np.random.default_rng(seed)
    target, rows = np.arange(samples) % 3, []
    statistics = {"index": np.arange(samples) + 100, "observed": np.ones((samples, len(names)), dtype=bool)}
    for method, skill in (("zero_fill", 0.2), ("adapted", 0.4)):
        for combination in names.combinations():
            size = len(names.parse(combination))
            right = rng.random(samples) < skill + 0.5 * size / len(names)
            prediction = np.where(right, target, rng.integers(3, size=samples))
            statistics[f"{method}/{combination}/prediction"] = prediction
            statistics[f"{method}/{combination}/target"] = target
            value = float(np.mean(prediction == target))
            rows.append(SweepRow(method, combination, size, "accuracy", value, samples, seed))
    return SweepResult(rows, list(names), "accuracy", {"accuracy": "max"}, samples=statistics)
