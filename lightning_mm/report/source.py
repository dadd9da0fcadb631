"""The results that a report is about, read from their folders, and what made them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import DataNotFoundError
from lightning_mm.json_files import parse_json
from lightning_mm.results.files import DIGEST, read
from lightning_mm.results.result import SweepResult
from lightning_mm.results.texts import NOTHING, duration

TABLE = "sweep.csv"
PLAIN = ("report", "sweep", "results")
"""Names of folders that say nothing about what is in them."""
SHOWN_VERSIONS = ("lightning-mm", "torch", "lightning", "python")


@dataclass(frozen=True)
class Source:
    """One sweep or study on disk.

    Args:
        name: Heading of its part of the report.
        csv: Its ``sweep.csv``.
        result: The figures.
        stored: The content of ``sweep.json``; empty if it belongs to another table.
        study: The content of ``study.json``; empty for a sweep that is not a study.
    """

    name: str
    csv: Path
    result: SweepResult
    stored: Mapping[str, Any]
    study: Mapping[str, Any]

    def facts(self) -> list[tuple[str, str]]:
        """What made the figures, as (label, text); what is not known is left out."""
        both = {**self.stored, **self.study}
        versions = both.get("versions")
        versions = versions if isinstance(versions, Mapping) else {}
        found = {
            "command": both.get("command") or self._likely_command(),
            "versions": ", ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if versions.get(name)),
            "git revision": both.get("commit") or "not recorded",
            "data fingerprint": self.result.data_fingerprint and self.result.data_fingerprint.text,
            "samples": self._samples(),
            "table of missing": self._missing(),
            "seeds": ", ".join(map(str, sorted({row.seed for row in self.result.rows}))),
            "device": both.get("machine") or versions.get("platform"),
            "time": self._time(),
            "intervals": self._intervals(),
        }
        return [(label, str(text)) for label, text in found.items() if text]

    def _likely_command(self) -> str:
        config = self.result.config
        if "study" in config:
            return "lightning-mm compare (the configuration of the study is below)"
        return "lightning-mm table" if "merged" in config else ""

    def _samples(self) -> str:
        """Number of samples, and a digest of which ones they are."""
        counts = sorted({row.n for row in self.result.rows})
        text = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}, depending on the combination"
        return text + (f"; index {_digest(self.result.samples['index'])}" if "index" in self.result.samples else "")

    def _missing(self) -> str:
        """What the data themselves lack: a digest of the table, and how many samples lack each modality."""
        observed = self.result.samples.get("observed")
        if observed is None or observed.shape[1:] != (len(self.result.modalities),):
            return ""
        lacking = len(observed) - observed.astype(bool).sum(0)
        parts = [f"{name} {int(count)}" for name, count in zip(self.result.modalities, lacking) if count]
        text = f"of {len(observed)} samples lack {', '.join(parts)}" if parts else "no sample lacks a modality"
        return f"{_digest(observed)}; {text}"

    def _time(self) -> str:
        parts = {
            "written": self.stored.get("created"),
            "CPU time of training": _sum(self.result.seconds) if self.result.seconds else None,
            "of a base": _sum({"": self.study["base_seconds"]}) if "base_seconds" in self.study else None,
            "of tuning": _sum(self.study["tuning_seconds"]) if self.study.get("tuning_seconds") else None,
        }
        return ", ".join(f"{label} {text}" for label, text in parts.items() if text and text != NOTHING)

    def _intervals(self) -> str:
        bootstrap = self.result.bootstrap
        return f"{bootstrap.level:.0%} bootstrap over samples, {bootstrap.key}" if bootstrap else ""


def read_sources(folders: Sequence[str | Path]) -> list[Source]:
    """Read every sweep of some folders; a folder without one may hold folders of sweeps, two levels deep.

    Raises:
        DataNotFoundError: If there is none.
        LightningMMError: If a file is damaged.
    """
    tables = dict.fromkeys(table.resolve() for folder in folders for table in _tables(Path(folder)))
    sources: list[Source] = []
    for table in tables:
        result, digest = read(table), zlib.crc32(table.read_bytes())
        stored, study = (_content(table.with_name(name)) for name in ("sweep.json", "study.json"))
        if stored.get(DIGEST) != digest:
            stored, study = {}, {}
        name, taken = _name(table, study), {source.name for source in sources}
        number = next(count for count in range(1, len(tables) + 1) if _numbered(name, count) not in taken)
        sources.append(Source(_numbered(name, number), table, result, stored, study))
    return sources


def _tables(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        yield folder  # a file that `read` checks
        return
    for depth in ("", "*/", "*/*/"):
        found = sorted(folder.glob(f"{depth}{TABLE}"))
        if found:
            yield from found
            return
    raise DataNotFoundError(
        f"no sweep in {folder}: expected a folder with a {TABLE}, as `lightning-mm sweep`, `table` and `compare` write "
        "it, or a folder of such folders"
    )


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, RecursionError):
        return {}  # `read` has checked sweep.json; without study.json a few facts are missing
    return content if isinstance(content, dict) else {}


def _name(table: Path, study: Mapping[str, Any]) -> str:
    """The folder, which tells parts of a study apart; the study or a folder above for one that says nothing."""
    folders = [folder.name for folder in table.parents if folder.name]
    if folders and folders[0] not in PLAIN:
        return folders[0]
    telling = [name for name in folders if name not in PLAIN]
    return str(study.get("study") or next(iter(telling), "sweep"))


def _numbered(name: str, count: int) -> str:
    return name if count == 1 else f"{name} ({count})"


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype=np.int64).tobytes()).hexdigest()[:12]


def _sum(seconds: Any) -> str:
    values = seconds.values() if isinstance(seconds, Mapping) else []
    return duration(sum(float(value) for value in values if isinstance(value, (int, float))))
