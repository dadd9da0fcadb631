"""Writes the runs of a study once, also if it is killed and started again.

A ledger next to the tables says which run is open and which is finished. Its file is forced to the disk before W&B
hears of a run. A run that a kill left open is completed: online the server keeps what it has and gets the rest, offline
the half written folder is replaced.
"""

from __future__ import annotations

import glob
import hashlib
import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from lightning_mm.errors import LightningMMError
from lightning_mm.files import FULL, lock, sha256, write_atomically
from lightning_mm.json_files import read_json
from lightning_mm.settings_files import tell_secrets, without_secrets
from lightning_mm.tracking.folders import remove_staged, stage_in_run, staging_kept
from lightning_mm.tracking.logger import is_of_wandb, wandb_mode
from lightning_mm.tracking.record.artifacts import AdapterFiles, BaseFiles
from lightning_mm.tracking.record.content import SweepRecord
from lightning_mm.tracking.record.whole import is_whole
from lightning_mm.tracking.record.write import write_record

LEDGER = "wandb_runs.json"
WAY_OUT = "remove it to record the study again, in new runs"
JobType = Literal["fit", "adapt", "sweep", "report"]
OLD_JOB_TYPES = {"fit": "base", "report": "sweep"}
"""What earlier versions called them."""
OWN = (
    "name", "id", "save_dir", "dir", "tags", "group", "job_type", "config", "flush_seconds", "log_model", "resume",
    "prefix", "version", "offline", "anonymous", "checkpoint_name", "experiment", "settings", "reinit",
)  # fmt: skip
"""Arguments that are not passed to ``wandb.init`` as they are."""


@dataclass(frozen=True)
class PlannedRun:
    """One run.

    Args:
        key: What it is of, e.g. ``adapted/seed0``; distinct within a study.
        job_type: ``fit`` trains the base, ``adapt`` anything on top of it, ``sweep`` only evaluates, ``report`` holds
            the whole study.
        record: Its figures, if it has any.
        config: Settings in plain types; secrets are masked before they are sent.
        tags: Labels.
        summary: Entries of the summary besides those of the record.
        adapters: Saved adapters.
        base: The base that the run trained or used.
        name: Name that W&B shows; ``<group>/<key>`` by default.
    """

    key: str
    job_type: JobType
    record: SweepRecord | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    adapters: Sequence[AdapterFiles] = ()
    base: BaseFiles | None = None
    name: str | None = None

    def digest(self) -> str:
        """Hash of what makes the run, without figures that further methods of a study may change."""
        record = self.record
        own = {} if record is None else {"figures": record.own_figures(), "summed": record.own_summary()}
        return _hash(self._content() | own)

    def digest_of_others(self) -> str | None:
        """Hash of the figures that further methods may change; ``None`` if there are none."""
        found = {} if self.record is None else self.record.of_others()
        return _hash(found) if found else None

    def old_digest(self) -> str:
        """The hash of earlier versions: of everything that is written."""
        record = self.record
        whole = {} if record is None else {"figures": record.figures, "summed": record.summary()}
        return _hash(self._content() | whole | {"job_type": OLD_JOB_TYPES.get(self.job_type, self.job_type)})

    def _content(self) -> dict[str, Any]:
        record = self.record
        content: dict[str, Any] = {
            "job_type": self.job_type,
            "config": without_secrets(self.config),
            "tags": list(self.tags),
            "summary": dict(self.summary),
            "adapters": [adapter.manifest() for adapter in self.adapters],
            "base": None if self.base is None else self.base.manifest(),
        }
        if record is not None:
            files = [one.path for one in record.pictures] + ([record.heat_map] if record.heat_map else [])
            content |= {"rows": record.table(), "files": [sha256(path) for path in files]}
        return content


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def write_runs(
    planned: Sequence[PlannedRun], folder: Path, group: str, settings: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Write all runs that are not finished, each once.

    Args:
        planned: The runs, in the order in which they are written.
        folder: Of the tables, which are on the disk; the ledger is kept next to them.
        group: Name that W&B groups the runs by.
        settings: Arguments of :class:`~lightning_mm.tracking.OfflineFirstWandbLogger` and ``wandb.init``. ``name`` and
            ``id`` are those of the last run, ``tags`` are added to all of them.

    Returns:
        Key to id of the run; empty with ``mode: disabled``.

    Raises:
        LightningMMError: If the ledger is damaged, or W&B fails; the message says how to complete the record.
    """
    arguments = {key: value for key, value in (settings or {}).items() if value is not None}
    mode = arguments.pop("mode", None) or wandb_mode()
    if mode == "disabled":
        return {}
    with lock(folder / ".wandb.lock", "wait until it has recorded the study"):
        ledger = Ledger.read(folder / LEDGER)
        for position, one in enumerate(planned):
            last = position == len(planned) - 1
            with explained(folder):
                _write(one, ledger, mode, group, arguments, last)
    return {key: state["id"] for key, state in ledger.runs.items() if key in {one.key for one in planned}}


@dataclass
class Ledger:
    """Which runs of a study are open or finished; its file is replaced as a whole after every change."""

    path: Path
    study_id: str
    runs: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read the ledger; a new one if there is none."""
        if not path.is_file():
            return cls(path, secrets.token_hex(4), {})
        from lightning_mm.schemas.base import check
        from lightning_mm.schemas.record import LedgerState

        state = check(LedgerState, read_json(path, WAY_OUT), path, WAY_OUT)
        return cls(path, state.study_id, {key: run.model_dump() for key, run in state.runs.items()})

    def is_finished(self, key: str, digest: str) -> bool:
        """Whether a run with this content is complete."""
        found = self.runs.get(key, {})
        return found.get("state") == "finished" and found.get("digest") == digest

    def set(self, key: str, **state: Any) -> None:
        """Note the state of a run, forced to the disk."""
        self.runs[key] = {**self.runs.get(key, {}), **state}
        content = {"study_id": self.study_id, "runs": self.runs}
        write_atomically(self.path, f"{json.dumps(content, indent=1)}\n")


def _write(one: PlannedRun, ledger: Ledger, mode: str, group: str, arguments: Mapping[str, Any], last: bool) -> None:
    digest, others = one.digest(), one.digest_of_others()
    if ledger.is_finished(one.key, one.old_digest()):
        return
    if ledger.is_finished(one.key, digest):
        if ledger.runs[one.key].get("others") != others:
            _update(one, ledger, mode, group, arguments)
            ledger.set(one.key, others=others)
        return
    chosen = arguments.get("id") if last else None
    identity = str(chosen or f"{ledger.study_id}-{hashlib.sha256((one.key + digest).encode()).hexdigest()[:12]}")
    before = ledger.runs.get(one.key, {}).get("id")
    ledger.set(one.key, id=identity, digest=digest, others=others, state="open", mode=mode, url=None)
    folder = Path(str(arguments.get("save_dir") or arguments.get("dir") or "."))
    if before == identity:
        _remove_unfinished(folder, identity)
    name = one.name or f"{group}/{one.key}"
    run = open_run(
        one, mode, group, arguments, identity, str(arguments["name"]) if last and "name" in arguments else name
    )
    failed = 1
    with staging_kept():
        stage_in_run(run)
        try:
            write_record(
                run, one.record, adapters=one.adapters, base=one.base, produced_base=one.job_type == "fit",
                summary=one.summary, fixed_steps=True,
            )  # fmt: skip
            failed = 0
        finally:
            run.finish(exit_code=failed)
    remove_staged(run)
    log = Path(run.dir).parent / f"run-{identity}.wandb"
    if mode == "offline" and not is_whole(log):
        raise LightningMMError(
            f"Weights & Biases has not written all of {log}, as on a full disk. The results are in "
            f"{ledger.path.parent}; make room and run the same command again to complete the record"
        )
    ledger.set(one.key, state="finished", url=None if mode == "offline" else run.url)


def _update(one: PlannedRun, ledger: Ledger, mode: str, group: str, arguments: Mapping[str, Any]) -> None:
    """Write the figures that compare a method with others into the summary of its run, which is complete otherwise."""
    run = open_run(one, mode, group, arguments, ledger.runs[one.key]["id"], one.name or f"{group}/{one.key}")
    failed = 1
    try:
        if one.record is not None:
            run.summary.update(one.record.of_others())
        failed = 0
    finally:
        run.finish(exit_code=failed)


def open_run(one: PlannedRun, mode: str, group: str, arguments: Mapping[str, Any], identity: str, name: str) -> Any:
    """Open a run, or continue the one of this id."""
    import wandb

    passed = {key: value for key, value in arguments.items() if key not in OWN}
    folder = Path(str(arguments.get("save_dir") or arguments.get("dir") or "."))
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"reinit": "create_new", "silent": True, "console": "off", "x_disable_stats": True}
    if isinstance(arguments.get("settings"), Mapping):
        settings |= arguments["settings"]
    if arguments.get("flush_seconds") is not None:
        settings["x_transaction_log_flush_interval"] = arguments["flush_seconds"]
    if tell_secrets(sys.argv):
        settings["x_disable_meta"] = True
    tags = dict.fromkeys([*one.tags, one.job_type, *(arguments.get("tags") or ())])
    return wandb.init(
        **{"project": "lightning-mm", **passed},
        dir=str(folder),
        mode=cast(Any, mode),
        id=identity,
        name=name,
        group=str(arguments.get("group") or group),
        job_type=one.job_type,
        tags=[tag[:64] for tag in tags],
        config=without_secrets({**(arguments.get("config") or {}), **one.config}),
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(**settings),
    )


def _remove_unfinished(folder: Path, identity: str) -> None:
    """Remove what a killed process has left of an offline run, unless it was synced: all of it is written again."""
    for left in (folder / "wandb").glob(f"offline-run-{'[0-9]' * 8}_{'[0-9]' * 6}-{glob.escape(identity)}"):
        if not any(left.glob("*.synced")):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn errors of W&B into one that says that the results are safe, and how to go on."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in FULL
        if not full and not is_of_wandb(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error).strip()
        raise LightningMMError(
            f"Weights & Biases: {reason or type(error).__name__}. The results are in {folder}; run the "
            "same command again to complete the record, with WANDB_MODE=offline if the server cannot be reached"
        ) from error
