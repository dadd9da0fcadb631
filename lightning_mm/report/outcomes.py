"""Outcomes of single samples: which ones a method loses in a combination, against what it does with everything.

Shapes: N samples of the split, n of them count for a combination, C classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_mm.report.tables import Cell, Table
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import ZERO_FILL

LISTED = 40
"""How many samples of a kind a cell lists; of a large sweep a quarter of that."""
LARGE = 1000
"""Cells of a large sweep."""
LEAST_IOU, LEAST_ERROR = 0.01, 0.1
"""The smallest changes that count: of a mean IoU, and of an error in standard deviations of the labels."""
LARGEST = 1e300
"""Larger errors, and those of predictions that are not finite, count as this one."""
Kind = Literal["right", "iou", "error"]
"""Of a score: right (1) or wrong (0); mean IoU of the classes in a sample; absolute error, turned round."""
Scores = dict[int, dict[tuple[str, str], NDArray[np.float64]]]
"""Seed to (method, combination) to ``Float[N]``, more is better; NaN for samples that do not count."""


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of all cells.

    Args:
        kind: What the scores are.
        cells: (method, combination) to plain data for the page: ``n``, ``seeds``, ``against`` (what it is compared
            with), ``lost`` and ``gained`` (numbers of samples, means over seeds), ``lost_samples`` and
            ``gained_samples`` (``[index, by how much or in how many seeds]``, the most first).
        least: The smallest change of a score that counts.
    """

    kind: Kind
    cells: dict[tuple[str, str], dict[str, Any]]
    least: float


def outcomes(result: SweepResult) -> Outcomes | None:
    """Outcomes from the statistics of samples; ``None`` if the sweep has none that are understood."""
    index, observed = result.samples.get("index"), result.samples.get("observed")
    if index is None or observed is None or observed.shape != (len(index), len(result.modalities)):
        return None
    kind, scores = _scores(result, observed)
    if kind is None or not scores:
        return None
    least = {"right": 0.5, "iou": LEAST_IOU, "error": LEAST_ERROR * _spread(result)}[kind]
    pairs = list(dict.fromkeys(pair for own in scores.values() for pair in own))
    most = LISTED if len(pairs) <= LARGE else LISTED // 4
    cells, known, full = {}, set(pairs), result.full_combination
    for method, combination in pairs:
        reference, against = _reference(known, method, combination, full)
        found = [
            (own[method, combination], own.get(reference) if reference else None)
            for own in scores.values()
            if (method, combination) in own
        ]
        cells[method, combination] = {"against": against, **_compared(found, index, kind, most, least)}
    return Outcomes(kind, cells, least)


def outcome_table(result: SweepResult, found: Outcomes) -> Table:
    """Combinations down, methods across: how many samples each loses and gains."""
    rows, records, methods = [], [], result.methods
    for combination in result.combinations:
        cells = [found.cells.get((method, combination)) for method in methods]
        texts = [f"−{cell['lost']:g} +{cell['gained']:g}" if cell and cell["against"] else "" for cell in cells]
        rows.append([Cell(combination), *(Cell(text) for text in texts)])
        for method, cell in zip(methods, cells):
            if cell and cell["against"]:
                record = {key: cell[key] for key in ("against", "n", "seeds", "lost", "gained")}
                samples = {
                    f"{key}_samples": " ".join(str(one) for one, _ in cell[f"{key}_samples"])
                    for key in ("lost", "gained")
                }
                records.append({"method": method, "combination": combination, **record, **samples})
    what = {
        "right": "right with everything and wrong here (−), or the other way round (+)",
        "iou": "with a lower mean IoU than with everything (−), or a higher one (+), by 0.01 or more",
        "error": f"with a larger error than with everything (−), or a smaller one (+), by {found.least:.3g} (a tenth "
        "of the standard deviation of the labels) or more",
    }[found.kind]
    notes = [
        f"samples {what}; mean over seeds",
        "methods that were not run on the full combination are compared with zero_fill on it",
    ]
    kept = [row for row in rows if any(cell.text for cell in row[1:])]
    return Table("samples", "Samples that a method loses and gains", ["combination", *methods], kept, records, notes)


def _scores(result: SweepResult, observed: NDArray[Any]) -> tuple[Kind | None, Scores]:
    """The scores of the first kind of statistics that there is."""
    kind: Kind | None = None
    scores: Scores = {}
    statistics: dict[tuple[int, str, str], dict[str, NDArray[Any]]] = {}
    for key, values in result.samples.items():
        parts = re.fullmatch(r"(?:seed(-?\d+)/)?([^/]+)/([^/]+)/([^/]+)", key)
        if parts:
            statistics.setdefault((int(parts[1] or 0), parts[2], parts[3]), {})[parts[4]] = values
    known = set(result.combinations)
    for (seed, method, combination), own in statistics.items():
        one, values = _score(own)
        if one is None or combination not in known:
            continue
        columns = [result.modalities.index(name) for name in combination.split("+")]
        counts: NDArray[np.bool_] = np.all(observed[:, columns], axis=1)
        if int(counts.sum()) != len(values) or (kind or one) != one:
            continue
        kind, whole = one, np.full(len(counts), np.nan)
        whole[counts] = values
        scores.setdefault(seed, {})[method, combination] = whole
    return kind, scores


def _score(statistics: dict[str, NDArray[Any]]) -> tuple[Kind | None, NDArray[np.float64]]:
    """Kind and score of each sample, ``Float[n]``."""
    nothing = np.zeros(0)
    confusion = statistics.get("confusion")
    if confusion is not None and confusion.ndim == 3:
        counts = confusion.astype(np.float64)
        hit = np.diagonal(counts, axis1=1, axis2=2)
        either = counts.sum(1) + counts.sum(2) - hit
        iou = np.divide(hit, either, out=np.full_like(hit, np.nan), where=either > 0)
        known = np.isfinite(iou)
        return "iou", np.where(known, iou, 0).sum(1) / np.maximum(known.sum(1), 1)
    prediction, target = statistics.get("prediction"), statistics.get("target")
    if prediction is None or target is None or prediction.ndim != 1 or prediction.shape != target.shape:
        return None, nothing
    if prediction.dtype.kind in "iub" and target.dtype.kind in "iub":
        return "right", (prediction == target).astype(np.float64)
    errors = np.abs(prediction.astype(np.float64) - target.astype(np.float64))
    return "error", -np.nan_to_num(errors, nan=LARGEST, posinf=LARGEST).clip(max=LARGEST)


def _spread(result: SweepResult) -> float:
    """Standard deviation of the labels of all samples; 1 if they are all the same, or not known."""
    targets = [values for key, values in result.samples.items() if key.endswith("/target") and values.ndim == 1]
    largest = max(targets, key=len, default=np.zeros(0))
    return float(largest.std()) if len(largest) and largest.std() > 0 else 1.0


def _reference(
    known: set[tuple[str, str]], method: str, combination: str, full: str
) -> tuple[tuple[str, str] | None, str]:
    """What a cell is compared with, and its name; nothing for the full combination itself."""
    if combination != full:
        for one, text in ((method, full), (ZERO_FILL, f"{ZERO_FILL}, {full}")):
            if (one, full) in known:
                return (one, full), text
    return None, ""


def _compared(
    found: list[tuple[NDArray[np.float64], NDArray[np.float64] | None]],
    index: NDArray[Any],
    kind: Kind,
    most: int,
    least: float,
) -> dict[str, Any]:
    """Lost and gained samples over seeds; without a reference those that are wrong, or worst."""
    pairs = [(own, other) for own, other in found if other is not None]
    if not pairs:
        return _worst([own for own, _ in found], index, kind, most)
    change = np.stack([own - other for own, other in pairs])
    result: dict[str, Any] = {"n": int(np.isfinite(change[0]).sum()), "seeds": len(pairs)}
    for name, sign in (("lost", -1), ("gained", 1)):
        hit = np.nan_to_num(sign * change, nan=0.0)
        counts = (hit >= least).sum(0)
        result[name] = round(float(counts.sum()) / len(pairs), 1)
        weight = counts if kind == "right" else hit.mean(0)
        listed = np.flatnonzero(counts)
        order = listed[np.argsort(-weight[listed], kind="stable")][:most]
        result[f"{name}_samples"] = [[int(index[k]), _short(weight[k])] for k in order]
    return result


def _worst(found: list[NDArray[np.float64]], index: NDArray[Any], kind: Kind, most: int) -> dict[str, Any]:
    scores = np.stack(found)
    counted = np.flatnonzero(np.isfinite(scores[0]))
    weight = (scores == 0).sum(0) if kind == "right" else np.where(np.isfinite(scores[0]), scores.mean(0), np.inf)
    listed = counted[weight[counted] > 0] if kind == "right" else counted
    order = listed[np.argsort(-weight[listed] if kind == "right" else weight[listed], kind="stable")][:most]
    wrong = round(float((scores == 0).sum()) / len(found), 1) if kind == "right" else len(counted)
    samples = [[int(index[k]), _short(weight[k])] for k in order]
    return {
        "n": len(counted),
        "seeds": len(found),
        "lost": wrong,
        "gained": 0,
        "lost_samples": samples,
        "gained_samples": [],
    }


def _short(value: Any) -> int | float:
    return int(value) if isinstance(value, np.integer) else round(float(value), 4)
