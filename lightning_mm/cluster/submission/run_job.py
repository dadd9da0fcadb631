"""One command as a job: its files in ``jobs/VERB`` of the run folder, and how they are queued.

::

    outputs/ssf/jobs/fit/config.yaml    the whole config, as it was when the job was submitted
    outputs/ssf/jobs/fit/job.sh         the script
    outputs/ssf/jobs/fit/job.json       the job
    outputs/ssf/jobs/fit/123.log        what job 123 prints, over all of its starts
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.cluster.scheduler import Job, Scheduler
from lightning_mm.cluster.script import TASK, Script
from lightning_mm.errors import LightningMMError, UsageError
from lightning_mm.files import check_folder, make_folder, write_atomically
from lightning_mm.json_files import read_json
from lightning_mm.schemas.base import check
from lightning_mm.schemas.job_settings import JobSettings
from lightning_mm.schemas.run_job import RunJobState

JOBS = "jobs"
"""Folder of the jobs in that of a run."""
LIVE = ("queued", "running")


@dataclass(frozen=True)
class RunJob:
    """A ``fit`` or ``sweep`` that is to be submitted.

    Args:
        verb: The verb.
        facts: What is known of its config, see :mod:`lightning_mm.cli.cluster.look`.
        settings: What the job asks for.
        workdir: The working directory of the command.
        submitted: How it was submitted.
        shards: Tasks of an array that a sweep is split over.
    """

    verb: str
    facts: Mapping[str, Any]
    settings: JobSettings
    workdir: Path
    submitted: str
    shards: int | None = None

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        given = self.facts["default_root_dir"]
        if not given:
            raise UsageError(
                "submit keeps the files of a job in the folder of its run: give it one with --trainer.default_root_dir"
            )
        if "://" in str(given):
            raise UsageError(f"submit needs a run folder on a disk of this machine, not {given}")
        return self.workdir / str(given)

    @property
    def folder(self) -> Path:
        """The folder of the job's files."""
        return self.run_folder / JOBS / self.verb

    @property
    def out(self) -> Path:
        """The folder of a sweep's table."""
        name = "sweep" if self.facts["split"] == "test" else f"sweep_{self.facts['split']}"
        return self.workdir / (self.facts["out"] or self.run_folder / name)

    @property
    def name(self) -> str:
        """The name of the job."""
        return self.settings.name or f"{self.run_folder.name}-{self.verb}"

    def config(self) -> str:
        """The config of the job, frozen, with a strategy for several processes."""
        config = self._for_ranks(yaml.safe_load(self.facts["config"]))
        head = f"# The config of job.sh, as it was when the job was submitted: {' '.join(self.submitted.split())}\n"
        return head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)

    def plain(self) -> dict[str, Any]:
        """The config as the job will parse it, what follows from other settings included."""
        return self._for_ranks(self.facts["plain"])

    def _for_ranks(self, config: Mapping[str, Any]) -> dict[str, Any]:
        trainer = dict(config["trainer"])
        if self.settings.ranks > 1 and trainer.get("strategy") in (None, "auto"):
            trainer["strategy"] = "ddp"
        devices = trainer.get("devices")
        if isinstance(devices, str) and devices.isdigit():  # jsonargparse takes a number of the command line for a text
            trainer["devices"] = int(devices)
        return {**config, "trainer": trainer}

    def script(self) -> Script:
        """The script of the job."""
        command = [self.verb, "-c", str(self.folder / "config.yaml")]
        if self.verb == "fit":
            command += ["--ckpt_path", "auto"]
        elif self.shards is not None:
            command += ["--shard", f"${TASK}/{self.shards}", "--out", str(self._shard(f"${TASK}"))]
        log = self.folder / ("%j.log" if self.shards is None else "%A_%a.log")
        return Script(self.name, command, log, self.settings, self.workdir, self.submitted, resumes=self.verb == "fit")

    def merge_script(self) -> Script | None:
        """The script that puts the shards of a sweep together."""
        if self.shards is None:
            return None
        shards = [str(self._shard(str(number))) for number in range(1, self.shards + 1)]
        command = ["merge", *shards, "--out", str(self.out), "--split", str(self.facts["split"])]
        log = self.folder / "merge-%j.log"
        return Script(
            f"{self.name}-merge", command, log, self.settings, self.workdir, self.submitted, resumes=False, alone=True
        )

    def _shard(self, number: str) -> Path:
        return self.out.with_name(f"{self.out.name}_shards") / f"{number}of{self.shards}"

    @property
    def array(self) -> str | None:
        """The numbers of its array."""
        if self.shards is None:
            return None
        limit = self.settings.array_limit
        return f"1-{self.shards}" + (f"%{limit}" if limit else "")

    def check(self) -> None:
        """Check that the run has a folder, and a sweep no more tasks than combinations.

        Raises:
            UsageError: If not.
        """
        check_folder(self.folder)
        given = self.facts["combinations"]
        names = 2 ** len(self.facts["modalities"]) - 1 if given is None else len(given)
        if self.shards is not None and self.shards > names:
            raise UsageError(
                f"--array: this sweep has {names} combinations, expected at most as many; got {self.shards}"
            )
        if self.verb == "sweep":
            check_folder(self.out)

    def check_free(self, scheduler_of: Callable[[str], Scheduler]) -> None:
        """Refuse to submit what is queued or running already.

        Raises:
            LightningMMError: If so, or nobody can say; the message names the job.
        """
        before = read_job(self.folder)
        if before is None:
            return
        ids = [before.id, *([before.merge] if before.merge else [])]
        try:
            states = scheduler_of(before.scheduler).states(ids)
        except LightningMMError as error:
            raise LightningMMError(
                f"{self.folder} was submitted to {before.scheduler} as job {before.id}, which may still run: {error}; "
                f"if it does not, remove {self.folder / 'job.json'}"
            ) from error
        live = [job for job in states.values() if job.state in LIVE]
        if live:
            raise LightningMMError(
                f"{self.run_folder}: its {self.verb} is {live[0].state} already, as job {live[0].id} of "
                f"{before.scheduler}; wait for it, cancel it, or give another --trainer.default_root_dir"
            )

    def submit(self, scheduler: Scheduler, scheduler_name: str, after: Sequence[str] = ()) -> RunJobState:
        """Write the files and queue the job; if it is refused, nothing stays that was not there before.

        Raises:
            LightningMMError: If it is refused.
        """
        new = [one for one in (self.folder, self.folder.parent, self.run_folder) if not one.exists()]
        config = self.folder / "config.yaml"
        make_folder(self.folder)
        ids: list[str] = []
        try:
            write_atomically(config, self.config())
            if self.facts["secrets"]:
                config.chmod(0o600)
            script = write_atomically(self.folder / "job.sh", self.script().text())
            ids.append(scheduler.submit(script, after, self.array))
            merge = self.merge_script()
            if merge is not None:
                ids.append(scheduler.submit(write_atomically(self.folder / "merge.sh", merge.text()), [ids[0]]))
        except BaseException:
            if ids:
                scheduler.cancel(ids)
            for folder in new:
                if folder == self.folder:
                    shutil.rmtree(folder, ignore_errors=True)
                elif folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            raise
        state = RunJobState(
            scheduler="local" if scheduler_name == "local" else "slurm",
            id=ids[0],
            merge=ids[1] if len(ids) > 1 else None,
            command=self.submitted,
            time=time.strftime("%Y-%m-%d %H:%M:%S"),
        )
        write_atomically(self.folder / "job.json", state.model_dump_json(indent=1) + "\n")
        return state


def read_job(folder: Path) -> RunJobState | None:
    """Read the job that was submitted last from a folder, if there is one."""
    path = folder / "job.json"
    if not path.is_file():
        return None
    way_out = "cancel its job by hand if it still runs, and remove the file"
    return check(RunJobState, read_json(path, way_out), path, way_out)


def jobs_of(run_folder: Path, scheduler_of: Callable[[str], Scheduler]) -> dict[str, Job]:
    """The submitted jobs of a run and their states: verb, or ``sweep merge``, with the task of an array, to job."""
    found: dict[str, Job] = {}
    for folder in sorted((run_folder / JOBS).glob("*")):
        state = read_job(folder)
        if state is None:
            continue
        scheduler = scheduler_of(state.scheduler)
        said = scheduler.states([state.id])
        for key, job in sorted(said.items(), key=lambda one: int("0" + one[0].partition("_")[2])):
            found[" ".join([folder.name, *key.partition("_")[2:]]).strip()] = job
        if state.merge is not None:
            found[f"{folder.name} merge"] = scheduler.states([state.merge])[state.merge]
    return found
