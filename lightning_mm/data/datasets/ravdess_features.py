"""RavdessFeatures: emotion of spoken clips, from statistics of the voice and of the face.

Shapes: N clips of a split, D features of a modality.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index
from lightning_mm.data.pages.ravdess_features import RAVDESS_FEATURES
from lightning_mm.data.readers.damage import damaged, reading
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.errors import LightningMMError, check_choice, check_whole

Array = NDArray[np.float64]

RULES = ("mean", "absent")
"""What happens to numbers that are missing inside a modality."""
ACTORS = 24
FILES = {"audio": "audio_summary.csv", "video": "video_summary.csv"}
_FACTS = ("file", "emotion", "intensity", "actor", "gender")
"""Columns that are no features."""
_NAMED = 3
"""How many features a remark names."""


class RavdessFeatures(Dataset[dict[str, Any]]):
    """Emotion recognition with two modalities: ``audio`` and ``video``, one vector of statistics each.

    Files: ``<root>/audio_summary.csv`` and ``video_summary.csv``, one line per clip, paired by the clip's name
    (``file`` without its suffix, e.g. ``01-01-05-01-01-01-17``: emotion 05, actor 17).

    Splits are by actor: the voice and face of a person are in one split only. Features are standardised with the mean
    and standard deviation over the training clips that have them; a feature that is constant there is zero everywhere.

    Missing numbers inside a modality (empty or NaN; on the released files 538 of audio, in 268 of 360 clips) follow one
    rule. ``missing="mean"``: they take the mean of the training clips, which is zero after standardisation.
    ``missing="absent"``: the modality counts as not observed in a clip that lacks any of its numbers. Either way
    :attr:`remarks` says how many there are; runs log it once, and the table of a sweep has it among its notes.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder of the two files; ``$LIGHTNING_MM_DATA/ravdess_features`` when not given.
        val_actors: Actors kept for validation, from 1 to 24.
        test_actors: Actors kept for the test. All other actors are trained on.
        missing: ``mean`` or ``absent``, see above.
        allow_missing: Whether a clip may be in one of the files only; it then lacks the other modality.

    Attributes:
        ids: Name of every clip, sorted by actor.
        actors: Actor of every clip.
        remarks: Modality to what was done with its missing numbers in this split; empty if none are missing.

    Shape:
        A sample is ``{"inputs": {"audio": Float[69] or None, "video": Float[56] or None}, "target": int}``, the target
        a position in ``class_names``.

    Raises:
        DataNotFoundError: If the folder or a file is not there.
        LightningMMError: If an argument is out of range, an actor is in two splits, no clip is left to train on, a clip
            is in one file only, or a file is damaged or holds something else.

    Reference:
        Livingstone & Russo: The Ryerson audio-visual database of emotional speech and song (RAVDESS), PLoS ONE 13(5),
        2018. With logistic regression over 8 folds of actors: audio .517, video .658, both .758 (those who packed it).
    """

    about: ClassVar[About] = RAVDESS_FEATURES
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"audio": 69, "video": 56}

    def __init__(
        self,
        split: str,
        root: str | None = None,
        val_actors: Sequence[int] = (15, 16, 17, 18),
        test_actors: Sequence[int] = (19, 20, 21, 22, 23, 24),
        missing: str = "mean",
        allow_missing: bool = False,
    ) -> None:
        check_choice("RavdessFeatures: split", split, SPLITS)
        check_choice("RavdessFeatures: missing", missing, RULES)
        groups = {"val": _actors("val_actors", val_actors), "test": _actors("test_actors", test_actors)}
        both = sorted(groups["val"] & groups["test"])
        if both:
            raise LightningMMError(f"RavdessFeatures: actors {both} are in val_actors and in test_actors; take one out")
        self.split, self.missing = split, missing
        self.val_actors, self.test_actors = tuple(val_actors), tuple(test_actors)
        self.root = find_folder("RavdessFeatures", self.about.name, root, list(FILES.values()))
        groups["train"] = set(range(1, ACTORS + 1)) - groups["val"] - groups["test"]
        tables = {name: _read(self.root / file, self.channels[name]) for name, file in FILES.items()}
        clips = sorted(
            {clip for table in tables.values() for clip in table.rows}, key=lambda clip: (_actor(clip), clip)
        )
        if not allow_missing:
            _check_both(tables, clips, self.root)
        own = [clip for clip in clips if _actor(clip) in groups[split]]
        training = [clip for clip in clips if _actor(clip) in groups["train"]]
        if not training:
            raise LightningMMError(
                f"RavdessFeatures: no clip is left to train on in {self.root} without actors "
                f"{sorted(groups['val'] | groups['test'])}; take fewer of them"
            )
        self.ids: tuple[str, ...] = tuple(own)
        self.actors: tuple[int, ...] = tuple(map(_actor, own))
        self._targets = [_emotion(clip) for clip in own]
        self.remarks: dict[str, str] = {}
        self._values: dict[str, list[Tensor | None]] = {}
        for name, table in tables.items():
            values = table.of(own)
            remark = _remark(name, table.features, values, missing)
            self.remarks |= {name: remark} if remark else {}
            self._values[name] = _prepared(values, table.of(training), missing)
        self._check_observed()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        check_index("RavdessFeatures", index, len(self), self.split)
        values = {name: own[index] for name, own in self._values.items()}
        inputs = {name: None if value is None else value.clone() for name, value in values.items()}
        return {"inputs": inputs, "target": self._targets[index]}

    def template(self, modality: str, sample: object) -> Tensor:
        """Return a vector of the size of a modality, for splits in which no clip has it."""
        return torch.zeros(self.channels[modality])

    def _check_observed(self) -> None:
        lacking = [clip for clip, *found in zip(self.ids, *self._values.values()) if all(one is None for one in found)]
        if lacking:
            raise LightningMMError(
                f"RavdessFeatures: clip {lacking[0]} has numbers of no modality with missing={self.missing!r}; "
                "leave it out of the files, or set missing='mean'"
            )


@dataclass(frozen=True)
class _Table:
    """One file: names of the features, and clip to ``Float[D]``, NaN for missing numbers."""

    features: list[str]
    rows: dict[str, Array]

    def of(self, clips: Sequence[str]) -> Array:
        """``Float[N, D]``; NaN throughout for a clip that the file lacks."""
        nothing = np.full(len(self.features), np.nan)
        return np.array([self.rows.get(clip, nothing) for clip in clips]).reshape(len(clips), len(self.features))


def _actors(name: str, actors: Sequence[int]) -> set[int]:
    for one in actors:
        check_whole(f"RavdessFeatures: {name}", one, 1)
        if one > ACTORS:
            raise LightningMMError(f"RavdessFeatures: {name}: expected actors from 1 to {ACTORS}, got {one}")
    return set(actors)


def _check_both(tables: Mapping[str, _Table], clips: Sequence[str], root: Path) -> None:
    """Raise a LightningMMError unless all files have all clips."""
    for name, table in tables.items():
        lacking = [clip for clip in clips if clip not in table.rows]
        if lacking:
            raise LightningMMError(
                f"RavdessFeatures: {root / FILES[name]} lacks {len(lacking)} of {len(clips)} clips of another file, "
                f"{lacking[0]} for one; copy it again, or set allow_missing to load them without {name}"
            )


def _read(path: Path, width: int) -> _Table:
    """Read the features of every clip, and check them against the clip's name."""
    with reading(path), path.open(newline="", encoding="utf-8") as file:
        try:
            header, *lines = list(csv.reader(file, strict=True))
        except csv.Error as error:
            raise damaged(path, error) from error
    lacking = [name for name in _FACTS[:4] if name not in header]
    features = [name for name in header if name not in _FACTS]
    if lacking or len(features) != width or len(set(header)) != len(header):
        raise LightningMMError(
            f"RavdessFeatures: {path}: expected {width} features and the columns {', '.join(_FACTS)}, got "
            f"{len(features)} and {', '.join(name for name in header if name in _FACTS) or 'none'}; copy it again"
        )
    rows: dict[str, Array] = {}
    for number, line in enumerate(lines, 2):
        where = f"RavdessFeatures: {path}, line {number}"
        if len(line) != len(header):
            raise LightningMMError(f"{where}: expected {len(header)} cells, got {len(line)}; copy it again")
        cells = dict(zip(header, line))
        clip = _checked_clip(cells, where)
        if clip in rows:
            raise LightningMMError(f"{where}: clip {clip} is there twice; copy it again")
        rows[clip] = np.array([_number(cells[name], f"{where}, {name}") for name in features])
    if not rows:
        raise LightningMMError(f"RavdessFeatures: {path} has no clips; copy it again")
    return _Table(features, rows)


def _checked_clip(cells: dict[str, str], where: str) -> str:
    """The clip's name, which says emotion and actor; the columns must agree."""
    clip = cells["file"].rpartition(".")[0]
    parts = clip.split("-")
    fields = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) == 2]
    known = len(parts) == len(fields) == 7 and 1 <= fields[2] <= len(RavdessFeatures.class_names)
    if not known or not 1 <= fields[6] <= ACTORS:
        raise LightningMMError(
            f"{where}: expected a clip such as 01-01-05-01-01-01-17.wav (emotion 01 to 08, actor 01 to {ACTORS}), got "
            f"{cells['file']!r}"
        )
    said = (cells["emotion"], cells["actor"])
    if said != (RavdessFeatures.class_names[_emotion(clip)], str(_actor(clip))):
        raise LightningMMError(
            f"{where}: clip {clip} is of emotion {RavdessFeatures.class_names[_emotion(clip)]!r} and actor "
            f"{_actor(clip)} by its name, and of {said[0]!r} and {said[1]!r} by its columns; copy it again"
        )
    return clip


def _emotion(clip: str) -> int:
    return int(clip.split("-")[2]) - 1


def _actor(clip: str) -> int:
    return int(clip.split("-")[6])


def _number(text: str, where: str) -> float:
    """The number in a cell, NaN if it is empty."""
    try:
        value = float(text) if text.strip() else np.nan
    except ValueError:
        value = np.inf
    if np.isinf(value) or "_" in text:
        raise LightningMMError(f"{where}: expected a number, or nothing for a missing one, got {text[:40]!r}")
    return value


def _prepared(values: Array, training: Array, missing: str) -> list[Tensor | None]:
    """Standardise and apply the rule for missing numbers; ``None`` where the modality is not observed."""
    known = np.isfinite(training)
    counts = np.maximum(known.sum(0), 1)
    mean = np.where(known, training, 0).sum(0) / counts
    std = np.sqrt(np.where(known, (np.where(known, training, 0) - mean) ** 2, 0).sum(0) / counts)
    # The spread of a constant is not always exactly zero.
    constant = std <= 1e-9 * np.abs(mean)
    scaled = np.where(constant | ~np.isfinite(values), 0.0, (values - mean) / np.where(constant, 1.0, std))
    there = np.isfinite(values)
    observed: NDArray[np.bool_] = np.all(there, axis=1) if missing == "absent" else np.any(there, axis=1)
    vectors = torch.from_numpy(scaled.astype(np.float32))
    return [vector if seen else None for vector, seen in zip(vectors, observed.tolist())]


def _remark(name: str, features: Sequence[str], values: Array, missing: str) -> str:
    """One sentence on the missing numbers of a modality, empty if there are none; clips without it do not count."""
    own = values[np.isfinite(values).any(1)]
    gaps = ~np.isfinite(own)
    if not gaps.any():
        return ""
    counts = {feature: int(count) for feature, count in zip(features, gaps.sum(0)) if count}
    most = sorted(counts, key=lambda feature: -counts[feature])
    listed = ", ".join(f"{feature} in {counts[feature]}" for feature in most[:_NAMED])
    more = f" and {len(most) - _NAMED} more features" if len(most) > _NAMED else ""
    rule = f"{name} counts as absent in these clips"
    if missing == "mean":
        rule = "they take the mean of the training clips"
    where = f"{int(gaps.any(1).sum())} of {len(own)} clips"
    return f"{name}: {int(gaps.sum())} of {gaps.size} numbers are missing in {where} ({listed}{more}); {rule}"
