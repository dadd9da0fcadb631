"""Reads all samples of a copy of a data set and describes what it found."""

from __future__ import annotations

import inspect
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_mm.data.about import About
from lightning_mm.errors import IncompleteDataError, LightningMMError, UsageError
from lightning_mm.tree import dotted, leaves_of

SPLITS = ("train", "val", "test")
SHOWN_ERRORS = 10
_SHOWN_SHAPES = 3
_LABELS = 4096  # distinct integers of a target that are kept; more are shown as a range


class Seen:
    """Collects shapes, kinds and range of one leaf over all samples, and its integers if wanted."""

    def __init__(self, integers: bool) -> None:
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.kinds: set[str] = set()
        self.low, self.high = np.inf, -np.inf
        self.labels: set[int] | None = set() if integers else None

    def add(self, value: Any) -> int:
        """Add the value of one sample.

        Returns:
            How many numbers in it are not finite.
        """
        array = _as_array(value)
        self.shapes[array.shape] += 1
        self.kinds.add(type(value).__name__ if isinstance(value, (str, int, float)) else str(array.dtype))
        if array.dtype.kind not in "biuf" or array.size == 0:
            return 0
        finite = np.isfinite(array)
        if finite.any():
            self.low = min(self.low, float(array[finite].min()))
            self.high = max(self.high, float(array[finite].max()))
        if array.dtype.kind == "f":
            self.labels = None
        elif self.labels is not None:
            self.labels |= set(np.unique(array).tolist())
            self.labels = self.labels if len(self.labels) <= _LABELS else None
        return int(array.size - finite.sum())

    def facts(self) -> dict[str, Any]:
        known = self.low <= self.high
        return {
            "shapes": [{"shape": list(shape), "n": n} for shape, n in self.shapes.most_common()],
            "kinds": sorted(self.kinds),
            "range": [self.low, self.high] if known else None,
            "labels": sorted(self.labels) if self.labels else None,
        }


def check(data_set: Any, folder: Path, limit: int | None, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Open every split and read its samples; progress goes to standard error.

    A missing modality of a sample is an error, unless ``allow_missing`` is set or the data set does not take it; equal
    errors count once. Samples that cannot be opened are errors too; the others are still read.

    Args:
        data_set: The class; its method ``explain_missing(index, modality)``, if it has one, writes the error.
        folder: Its root.
        limit: How many samples of a split to read, evenly spread; all by default.
        settings: Further arguments of the data set.

    Returns:
        For each split its facts, with ``errors`` (the first of them) and ``n_errors``.

    Raises:
        UsageError: If the data set does not take one of the settings.
    """
    known = inspect.signature(data_set).parameters
    unknown = sorted(set(settings) - set(known) | {"split", "root"} & set(settings))
    if unknown:
        names = [name for name in known if name not in ("split", "root")]
        raise UsageError(f"--set: {data_set.__name__} takes {', '.join(names)}; got {unknown[0]!r}")
    # Samples that lack a modality are opened too, to read the others; nothing is cached.
    given = {"cache": False, **settings, "allow_missing": True}
    arguments = {name: value for name, value in given.items() if name in known}
    complete = "allow_missing" in known and not settings.get("allow_missing")
    return [_split(data_set, split, folder, limit, arguments, complete) for split in SPLITS]


def describe(about: About, reports: Sequence[Mapping[str, Any]]) -> str:
    """The facts of all splits as text, with the first errors."""
    lines = []
    for report in reports:
        published = about.counts.get(report["split"])
        count = "not opened" if report["samples"] is None else f"{report['samples']} samples"
        word = ", recalled" if about.recalled else ""
        expected = "" if published is None else f" (published: {published}{word})"
        read = f", {report['read']} read" if report["read"] != report["samples"] and report["samples"] else ""
        lines.append(f"{report['split']}: {count}{expected}{read}")
        places = {**report["inputs"], **report["target"]}
        width = max(map(len, ["missing", *places]))
        lines += [f"  {name:{width}}  {_words(seen)}" for name, seen in places.items()]
        lacking = {name: share for name, share in report["missing"].items() if share}
        if report["read"]:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in lacking.items())
            lines.append(f"  {'missing':{width}}  {shares or 'nothing'}")
        lines += [f"  {remark}" for remark in report["remarks"]]
    errors = list(dict.fromkeys(f"{report['split']}: {one}" for report in reports for one in report["errors"]))
    total = sum(report["n_errors"] for report in reports)
    if total:
        lines.append(f"{total} errors" + (f", the first {SHOWN_ERRORS}" if total > SHOWN_ERRORS else ""))
        lines += [f"  {one}" for one in errors[:SHOWN_ERRORS]]
    else:
        lines.append("no errors")
    return "\n".join(lines)


def _split(
    data_set: Any, split: str, folder: Path, limit: int | None, arguments: Mapping[str, Any], complete: bool
) -> dict[str, Any]:
    opened, problems = _open(data_set, split, folder, arguments)
    errors = dict.fromkeys(problems)
    inputs: dict[str, Seen] = {}
    target: dict[str, Seen] = {}
    missing: Counter[str] = Counter()
    samples, read = None if opened is None else len(opened), 0
    remarks = getattr(opened, "remarks", None)
    if opened is not None and samples:
        names = modalities_of(opened)
        missing.update(dict.fromkeys(names, 0))
        chosen = np.arange(samples) if limit is None else np.linspace(0, samples - 1, limit).round().astype(int)
        for index in _with_progress(np.unique(chosen).tolist(), split):
            try:
                sample = opened[index]
            except (LightningMMError, OSError) as error:
                errors[str(error)] = None
                continue
            read += 1
            given = sample["inputs"]
            lacking = [name for name in dict.fromkeys([*names, *given]) if given.get(name) is None]
            missing.update(lacking)
            if complete:
                errors |= dict.fromkeys(_lacks(opened, index, name) for name in lacking)
            places = [(inputs, dotted(path), value) for path, value in leaves_of(given) if value is not None]
            labels = leaves_of({"target": sample["target"]})
            places += [(target, dotted(path), value) for path, value in labels if value is not None]
            for where, name, value in places:
                bad = where.setdefault(name, Seen(integers=where is target)).add(value)
                if bad:
                    errors[f"{_name(opened, index)}: {name} holds {bad} values that are not finite"] = None
    return {
        "split": split,
        "samples": samples,
        "published": dict(data_set.about.counts).get(split),
        "read": read,
        "missing": {name: missing[name] / read for name in missing} if read else {},
        "inputs": {name: seen.facts() for name, seen in inputs.items()},
        "target": {name: seen.facts() for name, seen in target.items()},
        "remarks": list(map(str, remarks.values())) if isinstance(remarks, Mapping) else [],
        "errors": list(errors)[:SHOWN_ERRORS],
        "n_errors": len(errors),
    }


def modalities_of(opened: Any) -> list[str]:
    """The modalities of a data set: its ``modalities``, or the names of its ``channels``; may be none."""
    return list(getattr(opened, "modalities", getattr(opened, "channels", ())))


def _open(data_set: Any, split: str, folder: Path, arguments: Mapping[str, Any]) -> tuple[Any | None, Sequence[str]]:
    """Open the data set without the samples that cannot be opened, or None; and the problems."""
    try:
        return data_set(split, root=str(folder), **arguments), ()
    except IncompleteDataError as error:
        return error.opened, error.problems
    except (LightningMMError, OSError) as error:
        return None, (str(error),)


def _lacks(opened: Any, index: int, modality: str) -> str:
    if hasattr(opened, "explain_missing"):
        return str(opened.explain_missing(index, modality))
    return f"{_name(opened, index)} has no {modality}"


def _with_progress(indices: Sequence[int], split: str) -> Iterator[int]:
    """Iterate over the indices and show progress: one line, overwritten in a terminal, else written at the end."""
    terminal, shown = sys.stderr.isatty(), 0.0
    for done, index in enumerate(indices):
        if terminal and time.monotonic() - shown > 0.2:
            shown = time.monotonic()
            print(f"\r{split}: {done}/{len(indices)} ", end="", file=sys.stderr, flush=True)
        yield index
    print(f"{chr(13) if terminal else ''}{split}: {len(indices)}/{len(indices)} ", file=sys.stderr, flush=True)


def _name(opened: Any, index: int) -> str:
    ids = getattr(opened, "ids", None)
    return f"sample {index}" if ids is None else f"sample {ids[index]}"


def _as_array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def _words(seen: Mapping[str, Any]) -> str:
    shapes = [" x ".join(map(str, one["shape"])) or "a value" for one in seen["shapes"]]
    more = f" and {len(shapes) - _SHOWN_SHAPES} more shapes" if len(shapes) > _SHOWN_SHAPES else ""
    words = [f"{', '.join(shapes[:_SHOWN_SHAPES])}{more}", ", ".join(seen["kinds"])]
    if seen["labels"]:
        words.append(f"labels {_ranges(seen['labels'])}")
    elif seen["range"]:
        words.append(f"{seen['range'][0]:.4g} to {seen['range'][1]:.4g}")
    return "; ".join(words)


def _ranges(labels: Sequence[int]) -> str:
    """Shorten consecutive numbers.

    Example:
        >>> _ranges([0, 1, 2, 5, 255])
        '0-2, 5, 255'
    """
    parts: list[list[int]] = []
    for label in labels:
        if parts and label == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], label]
        else:
            parts.append([label])
    return ", ".join("-".join(map(str, part)) for part in parts)
