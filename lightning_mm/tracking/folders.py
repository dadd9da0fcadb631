"""The folders that W&B writes for a run on this machine: where they are, what is staged in them, how they are sent."""

from __future__ import annotations

import glob
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_mm.tracking.log_file import has_records, last_step

DATA_DIR = "WANDB_DATA_DIR"
"""Environment variable of W&B: where files of artifacts wait until they are sent; by default in the home folder."""
STAGING = "lightning-mm-data"
"""Where they wait instead: in the folder of their run."""
_STAMP = f"{'[0-9]' * 8}_{'[0-9]' * 6}"


def parts_of(save_dir: Path, identity: str, kind: str = "*run") -> list[Path]:
    """All folders of a run, in the order in which they were written; each start of a command makes one.

    Args:
        save_dir: The folder that holds ``wandb/``.
        identity: Id of the run.
        kind: ``offline-run`` for the offline ones, ``run`` for the online ones, all by default.
    """
    found = (save_dir / "wandb").glob(f"{kind}-{_STAMP}-{glob.escape(identity)}")
    return sorted(found, key=lambda path: path.name.partition("run-")[2])


def written_step(save_dir: Path, identity: str) -> int | None:
    """The last step of a run that has reached its files; ``None`` if there are no files."""
    logs = [part / f"run-{identity}.wandb" for part in parts_of(save_dir, identity)]
    logs = [log for log in reversed(logs) if log.is_file()]
    return next((step for step in map(last_step, logs) if step >= 0), -1 if logs else None)


def unsent_parts(save_dir: Path, identity: str) -> list[Path]:
    """The offline parts of a run that ``wandb sync`` has not uploaded; one that holds nothing does not count."""
    parts = parts_of(save_dir, identity, "offline-run")
    return [one for one in parts if not any(one.glob("*.synced")) and has_records(one / f"run-{identity}.wandb")]


def folder_of(run: Any) -> Path:
    """The folder of an open run."""
    return Path(str(run.dir)).parent


def sync_command(run: Any) -> str | None:
    """The command that sends all parts of an offline run, the oldest first; ``None`` for other runs."""
    folder = folder_of(run)
    if not folder.name.startswith("offline-run-"):
        return None
    before = [one for one in unsent_parts(folder.parent.parent, str(run.id)) if one != folder]
    parts = [*before, folder]  # the last one may not be written yet
    return f"wandb sync {' '.join(shlex.quote(str(one)) for one in parts)}"


def stage_in_run(run: Any) -> None:
    """Let files of artifacts wait in the folder of a run, unless the user has named a place.

    W&B knows no setting for it, only a variable of the environment: it stays until the next run is opened.
    """
    if Path(os.environ.get(DATA_DIR, STAGING)).name == STAGING:
        os.environ[DATA_DIR] = str(folder_of(run).absolute() / STAGING)


def remove_staged(run: Any) -> None:
    """Remove the copies of what an online run has sent; those of an offline run are needed by ``wandb sync``."""
    if not run.offline:
        shutil.rmtree(folder_of(run) / STAGING, ignore_errors=True)


@contextmanager
def staging_kept() -> Iterator[None]:
    """Leave the environment as it was: the next command of this process may stage elsewhere."""
    before = os.environ.get(DATA_DIR)
    try:
        yield
    finally:
        with suppress(KeyError):
            del os.environ[DATA_DIR]
        if before is not None:
            os.environ[DATA_DIR] = before
