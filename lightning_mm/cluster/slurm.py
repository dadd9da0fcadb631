"""Slurm, by its own commands: ``sbatch``, ``squeue``, ``sacct``, ``scancel``.

Their text output is read, not ``--json``, which not all releases have in all of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_mm.cluster.limits import beyond, too_short
from lightning_mm.cluster.scheduler import Job, State
from lightning_mm.cluster.script import RESTARTS, TASK
from lightning_mm.errors import LightningMMError

SECONDS = 120.0
"""How long one command of Slurm may take; a busy controller answers late, not never."""
_STATES: dict[str, State] = {
    "COMPLETED": "finished",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"), "queued"
    ),
    **dict.fromkeys(
        ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING"), "running"
    ),
    **dict.fromkeys(
        ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"), "failed"
    ),
}  # fmt: skip
_WIDTH = 48
_COLUMNS = ("JobArrayID", "State", "Reason", "exit_code", "RestartCnt")
_ASIDE = re.compile(r"(?m)^(sbatch|scancel|squeue|sacct): (error: |fatal: )?|^allocation failure: ")
_HINTS = (
    (
        r"[Pp]artition|partition specified",
        "`sinfo` lists the partitions; give --partition, or change it in the profile",
    ),
    (r"[Aa]ccount", "`sacctmgr show associations user=$USER` lists your accounts; give --account"),
    (r"\bqos\b|\bQOS\b", "give another --qos"),
    (r"node configuration|more (processors|nodes)", "no node of the partition has that; `sinfo -Nel` lists them"),
    (r"time limit", "`sinfo` lists the limits; give a shorter --time"),
    (r"Unable to contact|slurm_persist|configuration file", "Slurm does not answer; try again later"),
)  # fmt: skip


class Slurm:
    """Submits to the Slurm whose commands are on the PATH."""

    name = "slurm"

    def check(self, script: Path) -> None:
        """Ask with ``sbatch --test-only``; nothing is queued."""
        done = _run(["sbatch", "--test-only", str(script)])
        if done.returncode:
            raise LightningMMError(f"Slurm would not take this job: {_words(done)}; nothing was queued")
        self._check_limits(script.read_text(encoding="utf-8"), done.stderr)

    def submit(self, script: Path, after: Sequence[str] = (), array: str | None = None) -> str:
        """Queue a script with ``sbatch --parsable``."""
        options = ["--parsable"]
        if after:
            options.append(f"--dependency=afterany:{':'.join(after)}")
        if array is not None:
            options.append(f"--array={array}")
        done = _run(["sbatch", *options, str(script)])
        # "123", or "123;cluster"; warnings of sites' plug-ins may stand above it
        found = re.findall(r"(?m)^(\d+)(?:;\S*)?$", done.stdout)
        if done.returncode or not found:
            raise LightningMMError(f"Slurm refused the job: {_words(done)}")
        return str(found[-1])

    def states(self, ids: Sequence[str]) -> dict[str, Job]:
        """Ask ``squeue``, and ``sacct`` for the jobs that it no longer lists; works without accounting too."""
        if not ids:
            return {}
        found = self._queued(ids)
        missing = [one for one in ids if one not in _names(found)]
        restarted = [key for key, job in found.items() if job.restarts]
        if missing or restarted:
            accounted = self._accounted([*missing, *restarted])
            earlier = {key: job.earlier for key, job in accounted.items()}
            found = accounted | {key: replace(job, earlier=earlier.get(key, ())) for key, job in found.items()}
        there, asked = _names(found), set(ids)
        found |= {one: Job(one, "unknown") for one in ids if one not in there}
        return {key: job for key, job in found.items() if key in asked or key.partition("_")[0] in asked}

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs with ``scancel``."""
        if not ids:
            return
        done = _run(["scancel", *ids])
        said = [line for line in _words(done).splitlines() if "Invalid job id" not in line]
        if done.returncode and said:
            raise LightningMMError(f"Slurm did not cancel {', '.join(ids)}: {said[0]}")

    def largest_array(self) -> int | None:
        """How many tasks an array may have, if Slurm says so."""
        done = _run(["scontrol", "show", "config"])
        found = re.search(r"(?m)^MaxArraySize\s*=\s*(\d+)", done.stdout)
        return int(found[1]) - 1 if found and int(found[1]) > 1 else None

    @staticmethod
    def _check_limits(text: str, said: str) -> None:
        """Refuse what would wait for ever, or be started again for ever: Slurm takes it all the same."""
        problem = too_short(text)
        if problem:
            raise LightningMMError(f"{problem}; give more --time, or less --warn_before; nothing was queued")
        found = re.search(r"(?m)^#SBATCH --partition=(\S+)$", text) or re.search(r" in partition (\S+)", said)
        if found is None or shutil.which("scontrol") is None:
            return
        shown = [_run(["scontrol", "show", "partition", "--oneliner", name]).stdout for name in found[1].split(",")]
        problem = beyond(text, "\n".join(shown))
        if problem:
            raise LightningMMError(
                f"this job would wait in Slurm's queue for ever: {problem}; ask for less, or give another --partition "
                "or a --qos that allows more; nothing was queued"
            )

    @staticmethod
    def _queued(ids: Sequence[str]) -> dict[str, Job]:
        columns = ",".join(f"{name}:{_WIDTH}" for name in _COLUMNS)
        jobs = sorted({one.partition("_")[0] for one in ids})
        done = _run(["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(jobs)}", "-O", columns])
        if done.returncode and "Invalid job id" not in done.stderr:
            raise LightningMMError(f"Slurm did not say what became of the jobs: {_words(done)}")
        found = {}
        for line in done.stdout.splitlines():
            key, word, reason, code, restarts = (line[i * _WIDTH : (i + 1) * _WIDTH].strip() for i in range(5))
            state = _STATES.get(word, "unknown")
            ended = state in ("finished", "failed", "cancelled")
            exit_code, number = _from_wait(int(code)) if ended and code.isdigit() else (None, None)
            found[key] = Job(
                key,
                state,
                word,
                exit_code,
                int(restarts) if restarts.isdigit() else None,
                "" if reason == "None" or state != "queued" else reason,
                signal=number,
            )
        return found

    @staticmethod
    def _accounted(ids: Sequence[str]) -> dict[str, Job]:
        jobs = sorted({one.partition("_")[0] for one in ids})
        format_ = "JobID%60,State%40,ExitCode,Reason%60"
        try:
            done = _run(["sacct", "-D", "-X", "-n", "-P", "-j", ",".join(jobs), "-o", format_])
        except LightningMMError:
            return {}  # not installed
        if done.returncode:
            return {}  # no accounting
        found: dict[str, Job] = {}
        for line in done.stdout.splitlines():
            key, said, code, reason = [*line.split("|"), "", "", "", ""][:4]
            if "[" in key:  # tasks that wait; squeue has listed them
                continue
            word = said.partition(" ")[0]  # "CANCELLED by 1000"
            state = _STATES.get(word, "unknown")
            ended = state in ("finished", "failed", "cancelled")
            earlier = () if key not in found else (*found[key].earlier, found[key].word)
            exit_code, number = _from_pair(code) if ended else (None, None)
            found[key] = Job(
                key,
                state,
                word,
                exit_code,
                len(earlier),
                "" if reason == "None" or state != "queued" else reason,
                earlier,
                number,
            )
        return found


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm.

    Raises:
        LightningMMError: If it is not on the PATH or does not answer.
    """
    # A job inherits the environment: what is submitted from inside a job must not count that one's restarts.
    environment = {
        key: value for key, value in os.environ.items() if key not in (TASK, RESTARTS, "SLURM_RESTART_COUNT")
    }
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)
    except (FileNotFoundError, PermissionError):
        raise LightningMMError(
            f"{command[0]} was not found on the PATH: this machine has no Slurm; submit from a login node of the "
            "cluster, or run the same job here with `lightning-mm submit local`"
        ) from None
    except subprocess.TimeoutExpired:
        raise LightningMMError(
            f"{command[0]} gave no answer in {SECONDS:.0f} s; is Slurm up? (`scontrol ping`)"
        ) from None


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """What Slurm said, in one line, with what to do where that is known."""
    lines = [_ASIDE.sub("", line).strip() for line in (done.stderr or done.stdout).splitlines()]
    text = "; ".join(dict.fromkeys(line for line in lines if line)) or f"exit code {done.returncode}, without a word"
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text)), None)
    return f"{text} ({hint})" if hint else text


def _names(jobs: Iterable[str]) -> set[str]:
    """Ids of jobs and tasks, and those of the arrays that the tasks belong to."""
    return {name for key in jobs for name in (key, key.partition("_")[0])}


def _from_wait(status: int) -> tuple[int, int | None]:
    """The exit code and the signal in a status of ``wait``, which ``squeue`` prints."""
    number = 0 if status >> 8 else status % 128
    return (128 + number, number) if number else (status >> 8, None)


def _from_pair(text: str) -> tuple[int | None, int | None]:
    """The exit code and the signal of ``sacct``: ``code:signal``."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return None, None
    code, number = int(match[1]), int(match[2])
    return (128 + number, number) if number else (code, None)
