"""A sweep on disk: ``sweep.csv`` first and fsynced, then JSON, samples, Markdown and the heat map."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.json_files import parse_json
from lightning_mm.modality_names import SEPARATOR, ModalityNames
from lightning_mm.provenance import DataFingerprint, git_commit, versions
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.heat_map import write_heat_map
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust.grid import grid_markdown, write_grid
from lightning_mm.results.robust.policies import MASKS, policy_figures
from lightning_mm.results.rows import COLUMNS, SweepRow
from lightning_mm.results.shards.shard import Shard
from lightning_mm.results.tables import markdown

REPLICATES = "replicates"
CSV_ALONE = "remove it to read the CSV alone"
DIGEST = "csv_crc32"
"""Ties JSON and samples to the CSV they were written with."""


def save(result: SweepResult, folder: str | Path, *, timestamp: bool = True) -> dict[str, Path]:
    """Write all files of a sweep; the rows are on disk before anything that may fail (plots) is tried.

    Args:
        result: The sweep.
        folder: Where to write; made if missing.
        timestamp: Whether the JSON holds the time of writing. Without it equal results make equal bytes, whether they
            were just computed or read from such files (on the same machine, with the same versions and commit).

    Returns:
        ``{"csv": path, "json": path, "samples": path, "markdown": path, "png": path}``; no ``samples`` if the result
        has none, and also ``policies``, a CSV with Markdown next to it, if the sweep drew some.
    """
    folder, result = Path(folder), _as_stored(result)
    written = {"csv": write_csv(result, folder / "sweep.csv")}
    written["json"] = write_json(result, folder / "sweep.json", timestamp=timestamp)
    if result.samples:
        written["samples"] = write_samples(result, folder / "sweep_samples.npz")
    text = f"{markdown(result)}\n"
    written["markdown"] = write_atomically(folder / "sweep.md", text)
    written |= _save_policies(result, folder)
    if "policies" not in written:  # of an earlier sweep
        for name in ("policies.csv", "policies.md"):
            (folder / name).unlink(missing_ok=True)
    written["png"] = write_heat_map(result, folder / "sweep.png")
    return written


def _save_policies(result: SweepResult, folder: Path) -> dict[str, Path]:
    """Write the figures under the policies that the sweep drew, of the metrics that its statistics suffice for."""
    if not any(key.startswith(MASKS) for key in result.samples):
        return {}
    try:
        grid = policy_figures(result)
    except LightningMMError as error:
        warnings.warn(f"no table of policies: {error}", stacklevel=3)
        return {}
    if grid is None:
        return {}
    write_atomically(folder / "policies.md", grid_markdown(grid))
    return {"policies": write_grid(grid, folder / "policies.csv")}


def write_csv(result: SweepResult, path: str | Path) -> Path:
    """Write one line per row; a missing interval or value is an empty cell."""
    return write_atomically(path, csv_bytes(result))


def csv_bytes(result: SweepResult) -> bytes:
    """The content of ``sweep.csv``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(row, column)) for column in COLUMNS] for row in result.rows)
    return text.getvalue().encode()


def read(path: str | Path) -> SweepResult:
    """Read a sweep; what a CSV cannot hold (order of modalities, directions, replicates) is read from the other files.

    Args:
        path: A ``sweep.csv``, or its folder.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is not a table of a sweep, or a file next to it is damaged.
    """
    path = Path(path)
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
    content = path.read_bytes()
    if not content.endswith((b"\n", b"\r")):
        raise LightningMMError(
            f"{path} is cut off in its last line, which may be another number then; copy it again (if it is whole, end "
            "its last line)"
        )
    digest = zlib.crc32(content)
    stored = _read_json(path.with_name("sweep.json"))
    if stored and stored.get(DIGEST) != digest:
        warnings.warn(f"{path} was changed after the files next to it were written; they are not used", stacklevel=2)
        stored = {}
    result = SweepResult(
        rows=rows,
        modalities=stored.get("modalities") or _guess_modalities(rows),
        primary_metric=stored.get("primary_metric") or rows[0].metric,
        directions=stored.get("directions") or {},
        parameters=stored.get("parameters") or {},
        config=stored.get("config") or {},
        seconds=stored.get("seconds") or {},
        notes=stored.get("notes") or [],
        inference=stored.get("inference") or {},
        inference_seconds=stored.get("inference_seconds") or {},
        data_fingerprint=DataFingerprint.of(stored.get("data_fingerprint")),
        networks=stored.get("networks") or {},
        shard=Shard.from_content(stored.get("shard")),
    )
    _check_rows(path, result)
    if stored:
        _add_samples(result, path.with_name("sweep_samples.npz"), digest, stored.get("bootstrap") or {})
    return result


def _read_rows(path: Path) -> list[SweepRow]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        absent = [column for column in COLUMNS[:7] if column not in (reader.fieldnames or [])]
        if absent:
            raise LightningMMError(f"{path} is not a table of a sweep: columns {absent} are missing")
        return [_row(path, reader.line_num, cells) for cells in reader]


def _check_rows(path: Path, result: SweepResult) -> None:
    """Raise a LightningMMError unless every figure is there once and its combination is one of the modalities."""
    names, seen = ModalityNames(result.modalities), set()
    for row in result.rows:
        what = f"method {row.method!r}, combination {row.combination!r}, metric {row.metric!r}, seed {row.seed}"
        try:
            combination = names.canonical(row.combination)
        except LightningMMError as error:
            raise LightningMMError(f"{path}: {error}; it is damaged or was edited") from error
        key = (row.method, combination, row.metric, row.seed)
        if key in seen:
            raise LightningMMError(f"{path} holds two values for {what}; it is damaged or was edited")
        if row.n_available != len(names.parse(combination)):
            raise LightningMMError(
                f"{path}: n_available: expected {len(names.parse(combination))} for {what}, got {row.n_available}; it "
                "is damaged or was edited"
            )
        seen.add(key)
    if result.primary_metric not in {row.metric for row in result.rows}:
        raise LightningMMError(
            f"{path.with_name('sweep.json')}: primary_metric: expected one of {result.metrics[1:]}, got "
            f"{result.primary_metric!r}; remove it to read the CSV alone"
        )


def write_json(result: SweepResult, path: str | Path, *, timestamp: bool = True) -> Path:
    """Write what made the figures (configuration, versions, commit) and the summaries of all methods and metrics."""
    result = _as_stored(result)
    content = {
        **({"created": datetime.now(UTC).isoformat(timespec="seconds")} if timestamp else {}),
        "modalities": result.modalities,
        "primary_metric": result.primary_metric,
        "directions": result.directions,
        "parameters": result.parameters,
        "seconds": result.seconds,
        "inference": result.inference,
        "inference_seconds": result.inference_seconds,
        "data_fingerprint": result.data_fingerprint and result.data_fingerprint.content(),
        "networks": result.networks,
        **({} if result.shard is None else {"shard": result.shard.content()}),
        "notes": result.notes,
        "summary": {m: {k: result.figures(m, k).summary() for k in result.metrics} for m in result.methods},
        "bootstrap": result.bootstrap and {"key": result.bootstrap.key, "level": result.bootstrap.level},
        "versions": versions(),
        "commit": git_commit(),
        DIGEST: zlib.crc32(csv_bytes(result)),
        "config": result.config,
    }
    text = json.dumps(_finite(content), indent=2, allow_nan=False, default=str)
    return write_atomically(path, f"{text}\n")


def write_samples(result: SweepResult, path: str | Path) -> Path:
    """Write the statistics of every sample, and the replicates of the bootstrap.

    The arrays are called ``index`` and ``observed`` (which samples these are), ``<method>/<combination>/<name>``, and
    ``replicates/<method>/<combination>/<metric>``; ``available.<policy>`` is what a policy of the sweep drew, see
    :func:`~lightning_mm.results.robust.policy_figures`. If a method has several seeds, the names of all statistics
    begin with the seed, ``seed<k>/<method>/<combination>/<name>``, and there are no replicates.
    """
    arrays = {key: _smallest(value) for key, value in result.samples.items()}
    arrays[DIGEST] = np.array(zlib.crc32(csv_bytes(result)))
    if result.bootstrap:
        for key, values in result.bootstrap.replicates.items():
            arrays["/".join([REPLICATES, *key])] = values.astype(np.float32)
    return write_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def _as_stored(result: SweepResult) -> SweepResult:
    """The same result with replicates in the precision of the file, so that its summary equals that of the file."""
    if result.bootstrap is None:
        return result
    coarse = {key: values.astype(np.float32).astype(np.float64) for key, values in result.bootstrap.replicates.items()}
    return replace(result, bootstrap=replace(result.bootstrap, replicates=coarse))


def _add_samples(result: SweepResult, path: Path, digest: int, bootstrap: Mapping[str, Any]) -> None:
    """Fill ``samples`` and ``bootstrap`` from the file that was written with this CSV; ignore an older one."""
    if not path.is_file():
        return
    try:
        _add_arrays(result, _read_arrays(path, digest), bootstrap)
    except Exception as error:  # any byte may be wrong: the archive, the arrays in it, or their names
        raise LightningMMError(
            f"{path} cannot be read ({type(error).__name__}: {error}); remove it to read the CSV alone"
        ) from error


def _add_arrays(result: SweepResult, arrays: Mapping[str, NDArray[Any]], bootstrap: Mapping[str, Any]) -> None:
    for name, values in arrays.items():
        if not name.startswith(f"{REPLICATES}/"):
            result.samples[name] = values
            continue
        method, combination, metric = name.split("/", 3)[1:]
        if result.bootstrap is None:
            result.bootstrap = Bootstrap(bootstrap.get("key", ""), level=bootstrap.get("level", 0.95))
        result.bootstrap.replicates[method, combination, metric] = values.astype(np.float64)
    replicates = result.bootstrap.replicates if result.bootstrap else {}
    shapes = {values.shape for values in replicates.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"replicates must be rows of one length, got {sorted(shapes)}")
    if arrays and result.samples.get("index", np.zeros(0)).ndim != 1:
        raise ValueError(f"index must be a row, got {result.samples['index'].shape}")


def _read_arrays(path: Path, digest: int) -> dict[str, NDArray[Any]]:
    """All arrays except the digest; none if the file was written with another CSV."""
    # np.load would take another kind of file for a pickle or a lone array; zipfile says what is wrong.
    with zipfile.ZipFile(path) as archive:
        archive.infolist()
    with np.load(path) as arrays:
        if DIGEST not in arrays.files or int(arrays[DIGEST]) != digest:
            return {}
        return {name: arrays[name] for name in arrays.files if name != DIGEST}


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _row(path: Path, line: int, cells: Mapping[str, str | None]) -> SweepRow:
    try:
        lacking = [column for column, cell in cells.items() if cell is None or column is None]
        if lacking:
            raise ValueError(f"expected {len(cells)} cells, some are missing or left over")
        row = SweepRow(
            method=_text(cells, "method"),
            combination=_text(cells, "combination"),
            n_available=int(_number(cells["n_available"] or "")),
            metric=_text(cells, "metric"),
            value=float(_number(cells["value"] or "nan")),
            n=int(_number(cells["n"] or "")),
            seed=int(_number(cells["seed"] or "")),
            low=_end(cells.get("low")),
            high=_end(cells.get("high")),
        )
        if row.n < 0 or (row.low is not None and row.high is not None and row.low > row.high):
            raise ValueError(f"expected n of 0 or more and low up to high, got {row.n}, {row.low} and {row.high}")
    except ValueError as error:
        raise LightningMMError(f"{path}, line {line}: {error}; the file is cut off or was edited") from error
    return row


def _text(cells: Mapping[str, str | None], column: str) -> str:
    text = cells[column]
    if not text:
        raise ValueError(f"{column} is empty")
    return text


def _number(text: str) -> str:
    """The text, which must be a number as we write it: Python takes ``1_0`` and digits of other scripts too."""
    if "_" in text or not text.isascii():
        raise ValueError(f"expected a number, got {text[:40]!r}")
    return text


def _end(cell: str | None) -> float | None:
    return float(_number(cell)) if cell else None


def _guess_modalities(rows: list[SweepRow]) -> list[str]:
    """Names in the order of the longest combinations, for a CSV without its JSON."""
    longest_first = sorted(rows, key=lambda row: -row.n_available)
    return list(dict.fromkeys(name for row in longest_first for name in row.combination.split(SEPARATOR)))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    # pydantic takes a quarter of a second, and a CSV alone does not need it
    from lightning_mm.schemas.base import check
    from lightning_mm.schemas.sweep import SweepState

    try:
        content = parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LightningMMError(f"{path} is not JSON ({error}); {CSV_ALONE}") from error
    check(SweepState, content, path, CSV_ALONE)
    return dict(content)


def _finite(value: Any) -> Any:
    """The value with null for NaN, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    """The array, integers in the smallest type that holds them: statistics of thousands of samples are large."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    return array.astype(np.result_type(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))
