"""A sweep on disk: ``sweep.csv`` first and fsynced, then JSON, samples, Markdown and the heat map.

Every file is written beside its place and renamed: a kill leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
import platform
import subprocess
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.result import SweepResult, SweepRow

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

COLUMNS = ("method", "combination", "n_available", "metric", "value", "n", "seed", "low", "high")
PACKAGES = ("lightning-mm", "torch", "lightning", "torchmetrics", "segmentation-models-pytorch", "numpy", "wandb")
REPLICATES = "replicates"
PART = ".part"
DIGEST = "csv_crc32"
"""Ties JSON and samples to the CSV they were written with."""
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
"""What reading a damaged archive may end in: a flipped bit may say that it is encrypted, or of a later version."""


def save(result: SweepResult, folder: Path, *, timestamp: bool = True) -> dict[str, Path]:
    """Write all files of a sweep; the figures are on disk before anything that may fail (plots) is tried.

    Args:
        result: The sweep.
        folder: Where to; made if it is not there.
        timestamp: Whether the JSON says when it was made. Without, equal results make equal bytes, no matter whether
            they were just computed or read back from such files (on the same machine, versions and commit).

    Returns:
        ``{"csv": path, "json": path, "samples": path, "markdown": path, "png": path}``; no ``samples`` where the result
        holds none.
    """
    from lightning_mm.results.heat_map import write_heat_map

    result = _as_stored(result)
    written = {"csv": write_csv(result, folder / "sweep.csv")}
    written["json"] = write_json(result, folder / "sweep.json", timestamp=timestamp)
    if result.samples:
        written["samples"] = write_samples(result, folder / "sweep_samples.npz")
    written["markdown"] = replace_file(
        folder / "sweep.md", lambda file: file.write(f"{result.to_markdown()}\n".encode())
    )
    written["png"] = write_heat_map(result, folder / "sweep.png")
    return written


def write_csv(result: SweepResult, path: Path) -> Path:
    """One row per figure; an interval or a value that does not exist is an empty cell."""
    return replace_file(path, lambda file: file.write(csv_bytes(result)))


def csv_bytes(result: SweepResult) -> bytes:
    """The content of ``sweep.csv``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(row, column)) for column in COLUMNS] for row in result.rows)
    return text.getvalue().encode()


def read_csv(path: Path) -> SweepResult:
    """Read a sweep back; what a CSV cannot hold (order of modalities, directions, replicates) comes from beside it.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is not a table of a sweep, or a file beside it is damaged.
    """
    if path.is_dir():
        path = path / "sweep.csv"
    if not path.is_file():
        raise DataNotFoundError(f"no sweep at {path}: expected a sweep.csv written by `lightning-mm sweep`")
    try:
        rows = _read_rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise LightningMMError(
            f"{path} is not a table of a sweep ({error}): expected UTF-8 text as `lightning-mm sweep` writes it; it is "
            "damaged, or another program saved it in another encoding"
        ) from error
    if not rows:
        raise LightningMMError(f"{path} holds no figures")
    digest = zlib.crc32(path.read_bytes())
    beside = _read_json(path.with_name("sweep.json"))
    if beside and beside.get("csv_crc32") != digest:
        warnings.warn(f"{path} was changed after the files beside it were written; they are not used", stacklevel=2)
        beside = {}
    result = SweepResult(
        rows=rows,
        modalities=beside.get("modalities") or _guess_modalities(rows),
        primary_metric=beside.get("primary_metric") or rows[0].metric,
        directions=beside.get("directions") or {},
        parameters=beside.get("parameters") or {},
        config=beside.get("config") or {},
        seconds=beside.get("seconds") or {},
        notes=beside.get("notes") or [],
    )
    if beside:
        _add_samples(result, path.with_name("sweep_samples.npz"), digest, beside.get("bootstrap") or {})
    return result


def _read_rows(path: Path) -> list[SweepRow]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        absent = [column for column in COLUMNS[:7] if column not in (reader.fieldnames or [])]
        if absent:
            raise LightningMMError(f"{path} is not a table of a sweep: columns {absent} are missing")
        return [_row(path, reader.line_num, cells) for cells in reader]


def write_json(result: SweepResult, path: Path, *, timestamp: bool = True) -> Path:
    """What made the figures (configuration, versions, commit) and the summaries of all methods and metrics."""
    result = _as_stored(result)
    content = {
        **({"created": datetime.now(UTC).isoformat(timespec="seconds")} if timestamp else {}),
        "modalities": result.modalities,
        "primary_metric": result.primary_metric,
        "directions": result.directions,
        "parameters": result.parameters,
        "seconds": result.seconds,
        "notes": result.notes,
        "summary": {m: {k: result.summary(m, k) for k in result.metrics} for m in result.methods},
        "bootstrap": result.bootstrap and {"key": result.bootstrap.key, "level": result.bootstrap.level},
        "versions": versions(),
        "commit": git_commit(),
        "csv_crc32": zlib.crc32(csv_bytes(result)),
        "config": result.config,
    }
    text = json.dumps(_finite(content), indent=2, allow_nan=False, default=str)
    return replace_file(path, lambda file: file.write(f"{text}\n".encode()))


def write_samples(result: SweepResult, path: Path) -> Path:
    """Statistics of every sample, and the replicates of the bootstrap.

    The arrays are called ``index`` and ``observed`` (which samples these are), ``<method>/<combination>/<name>``, and
    ``replicates/<method>/<combination>/<metric>``. Where a method has several seeds, the names of all statistics begin
    with theirs, ``seed<k>/<method>/<combination>/<name>``, and there are no replicates.
    """
    arrays = {key: _smallest(value) for key, value in result.samples.items()}
    arrays[DIGEST] = np.array(zlib.crc32(csv_bytes(result)))
    if result.bootstrap:
        for figure, values in result.bootstrap.replicates.items():
            arrays["/".join([REPLICATES, *figure])] = values.astype(np.float32)
    return replace_file(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that make the figures."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """The commit of the working directory, ``-dirty`` where tracked files differ; ``None`` outside a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _as_stored(result: SweepResult) -> SweepResult:
    """The same with replicates as coarse as on disk: a result that was read back has the very same summary."""
    if result.bootstrap is None:
        return result
    coarse = {
        figure: values.astype(np.float32).astype(np.float64) for figure, values in result.bootstrap.replicates.items()
    }
    return replace(result, bootstrap=replace(result.bootstrap, replicates=coarse))


def _add_samples(result: SweepResult, path: Path, digest: int, bootstrap: Mapping[str, Any]) -> None:
    """Fill ``samples`` and ``bootstrap`` from the file written with this CSV; an older one is left alone."""
    if not path.is_file():
        return
    try:
        arrays = _read_arrays(path, digest)
    except DAMAGED as error:
        raise LightningMMError(
            f"{path} cannot be read ({type(error).__name__}: {error}); remove it to read the CSV alone"
        ) from error
    for name, values in arrays.items():
        if name.startswith(f"{REPLICATES}/"):
            method, combination, metric = name.split("/", 3)[1:]
            if result.bootstrap is None:
                result.bootstrap = Bootstrap(bootstrap.get("key", ""), level=bootstrap.get("level", 0.95))
            result.bootstrap.replicates[method, combination, metric] = values.astype(np.float64)
        else:
            result.samples[name] = values


def _read_arrays(path: Path, digest: int) -> dict[str, NDArray[Any]]:
    """All arrays but the digest; none of a file that was written with another CSV."""
    # Opened here: np.load takes a file of another kind for a pickle or a lone array, and zipfile says what is wrong.
    with zipfile.ZipFile(path) as archive:
        archive.infolist()
    with np.load(path) as arrays:
        if DIGEST not in arrays.files or int(arrays[DIGEST]) != digest:
            return {}
        return {name: arrays[name] for name in arrays.files if name != DIGEST}


def replace_file(path: Path, write: Callable[[IO[bytes]], Any]) -> Path:
    """Let ``write`` fill a file beside ``path``, force it to the disk, and rename it into its place.

    What a killed process left beside it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}-*{PART}"):
        _remove_if_nobody_writes(left)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            _lock(file)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that nobody else may read; give it the rights that any new file would get.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _lock(file: IO[bytes]) -> bool:
    """Hold a file until it is closed or the process ends; ``False`` where another one holds it, or nobody could."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_if_nobody_writes(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if _lock(file):
                path.unlink()
    except OSError:
        # Another process was faster, or may remove it and we may not.
        return


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _row(path: Path, line: int, cells: Mapping[str, str | None]) -> SweepRow:
    def number(column: str) -> float | None:
        return float(cells[column] or "nan") if cells.get(column) else None

    try:
        value = number("value")
        return SweepRow(
            method=str(cells["method"]),
            combination=str(cells["combination"]),
            n_available=int(cells["n_available"] or ""),
            metric=str(cells["metric"]),
            value=math.nan if value is None else value,
            n=int(cells["n"] or ""),
            seed=int(cells["seed"] or ""),
            low=number("low"),
            high=number("high"),
        )
    except ValueError as error:
        raise LightningMMError(f"{path}, line {line}: {error}; the file is cut off or was edited") from error


def _guess_modalities(rows: list[SweepRow]) -> list[str]:
    """Names in the order of the longest combinations, for a CSV without the JSON beside it."""
    longest_first = sorted(rows, key=lambda row: -row.n_available)
    return list(dict.fromkeys(name for row in longest_first for name in row.combination.split("+")))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LightningMMError(f"{path} is not JSON ({error}); remove it to read the CSV alone") from error
    return content if isinstance(content, dict) else {}


def _finite(value: Any) -> Any:
    """JSON knows no NaN: figures that do not exist become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    """Integers in the smallest type that holds them: statistics of thousands of samples are large."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    return array.astype(np.result_type(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))
