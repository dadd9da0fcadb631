"""Writes ``job.sh``: the script that is shown is the script that runs, under Slurm and on this machine.

The script decides whether the job is queued again, not the command in it: a command may die before it can ask for
anything, and a container may have no ``scontrol``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_mm.schemas.job_settings import JobSettings

TASK = "LIGHTNING_MM_TASK"
"""Variable with the number of the task of an array; a command may name it as ``$LIGHTNING_MM_TASK``."""
RESTARTS = "LIGHTNING_MM_RESTARTS"
"""Variable with how often this job was queued again."""

# One line each: name of the setting, option of sbatch.
_OPTIONS = (
    ("nodes", "nodes"), ("tasks", "ntasks-per-node"), ("cpus_per_task", "cpus-per-task"), ("mem", "mem"),
    ("time", "time"), ("partition", "partition"), ("account", "account"), ("qos", "qos"), ("constraint", "constraint"),
    ("nodelist", "nodelist"), ("exclude", "exclude"), ("reservation", "reservation"),
)  # fmt: skip

_TRAPS = """\
# Slurm sends %(signal)s here %(warn_before)s s before the time limit, and the command gets USR2: it saves where it is,
# and ends with exit code 75. Where it dies instead, since it was still starting, it is queued again all the same.
asked= step=
trap 'asked=yes; [ -z "$step" ] || kill -USR2 "$step"' %(signal)s
"""
_NO_TRAPS = """\
# What ends this command ends it for good, but for preemption: it starts anew each time.
asked= step=
"""
_TERM = """\
# Slurm sends SIGTERM to the command by itself.
trap '[ -n "$step" ] || { trap - EXIT; exit 143; }; [ -n "$slurm" ] || kill -TERM "$step"' TERM
trap 'echo "lightning-mm: a line of the set-up ended this with exit code $?; the command was not started" >&2' EXIT
slurm=${SLURM_JOB_ID:-}
# Left by another run, if it was submitted from one; a profile's `environment` may set them.
unset MASTER_PORT WORLD_SIZE RANK LOCAL_RANK NODE_RANK
export LIGHTNING_MM_TASK=${SLURM_ARRAY_TASK_ID:-${LIGHTNING_MM_TASK:-}}
export LIGHTNING_MM_RESTARTS=$((${SLURM_RESTART_COUNT:-0} + ${LIGHTNING_MM_RESTARTS:-0}))
"""
_RUN = """\
trap - EXIT
# Under Slurm, srun starts every process; elsewhere the command does that itself.
launch=()
[ -z "$slurm" ] || launch=(%(srun)s)
code=75
if [ -z "$asked" ]; then
  "${launch[@]}" "${command[@]}" &
  step=$!
  [ -z "$asked" ] || kill -USR2 "$step"
  while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal ends a wait
  wait "$step"
  code=$?
fi
case $code in 0 | 76) exit "$code" ;; esac  # 76: it gave up, since starting it again does not help

# Is it queued again?
why="the command asked for it (exit code 75)"
[ -z "$asked" ] || why="the time limit was near"
[ -n "$step" ] || why="it was warned of the time limit before the set-up had ended, so the command was not started"
again=
[ "$code" != 75 ] && [ -z "$asked" ] || again=yes
# The id of the last task of an array is that of the array as well.
this=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
this=${this:-$slurm}
if [ -n "$slurm" ] && command -v scontrol >/dev/null; then
  case "$(scontrol show job "$this" 2>/dev/null)" in
    # 143: ended by SIGTERM. Slurm itself queues a preempted job again only while its script still runs.
    *JobState=RUNNING*' PreemptTime='[0-9]*) [ "$code" != 143 ] || { again=yes; why="it was preempted"; } ;;
    *JobState=RUNNING*) ;;
    *Reason=TimeLimit*) %(at_limit)s ;;
    *) again= ;;  # it was cancelled
  esac
elif [ -n "$slurm" ] && [ "$code" = 143 ] && [ -z "$asked" ]; then
  sleep 120 & wait $!  # cancelled or preempted: Slurm ends this script, and queues it again if that is right
fi
[ -n "$again" ] || exit "$code"
if [ "$LIGHTNING_MM_RESTARTS" -ge %(max_requeues)s ]; then
  echo "lightning-mm: not queued again after $LIGHTNING_MM_RESTARTS times (max_requeues); the last time, $why" >&2
  exit 1
fi
[ -n "$slurm" ] || exit 75  # `lightning-mm submit local` starts it again
echo "lightning-mm: job $this is queued again, time $((LIGHTNING_MM_RESTARTS + 1)) of %(max_requeues)s: $why" >&2
scontrol requeue "$this" 2>/dev/null && exit "$code"
# No scontrol on this node, or it may not: the same script once more, as another job.
LIGHTNING_MM_RESTARTS=$((LIGHTNING_MM_RESTARTS + 1)) env -u SLURM_RESTART_COUNT \\
  sbatch --dependency="afterany:$this" ${SLURM_ARRAY_TASK_ID:+--array="$SLURM_ARRAY_TASK_ID"} "$0" >&2
exit "$code"
"""
_AT_LIMIT = 'again=yes; why="the time limit ended it"'
_NOT_AT_LIMIT = 'echo "lightning-mm: it needs more time than --time gives" >&2'


@dataclass(frozen=True)
class Script:
    """What one job runs.

    Args:
        name: The name of the job.
        command: Words after ``lightning-mm``; ``$LIGHTNING_MM_TASK`` in one is the number of the task of an array.
        log: The file for what it prints, with Slurm's marks: ``%j`` is the job, ``%A_%a`` array and task.
        settings: What it asks for.
        folder: The working directory.
        submitted: How it was submitted, for a reader of the script.
        resumes: Whether the command goes on from where it was when it is started again.
        alone: Whether it needs one process only, whatever the settings say, and no GPU.
    """

    name: str
    command: Sequence[str]
    log: Path
    settings: JobSettings
    folder: Path
    submitted: str = ""
    resumes: bool = True
    alone: bool = False

    def text(self) -> str:
        """The whole script."""
        settings = self.settings
        if self.alone:
            settings = settings.model_copy(update={"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1})
        words = {
            "signal": settings.signal,
            "warn_before": settings.warn_before,
            "max_requeues": settings.max_requeues,
            "srun": _srun(settings),
            "at_limit": _AT_LIMIT if self.resumes else _NOT_AT_LIMIT,
        }
        submitted = [f"# Submitted with: {' '.join(self.submitted.split())}"] if self.submitted else []
        parts = [
            "\n".join(["#!/bin/bash", *submitted, *_sbatch_lines(self, settings)]) + "\n",
            ((_TRAPS if self.resumes else _NO_TRAPS) + _TERM) % words,
            "\n".join([f"cd {shlex.quote(str(self.folder))} || exit 1", *_setup_lines(settings), *self._command()])
            + "\n",
            _RUN % words,
        ]
        return "\n".join(parts)

    def _command(self) -> list[str]:
        return [f"command=({program(self.settings)} {' '.join(map(_word, self.command))})"]


def trainer_settings(settings: JobSettings) -> dict[str, Any]:
    """The settings of the trainer that follow from what a job asks for."""
    return {
        "trainer.accelerator": "gpu" if settings.gpus_per_node else "cpu",
        "trainer.devices": settings.tasks,
        "trainer.num_nodes": settings.nodes,
    }


def program(settings: JobSettings) -> str:
    """How the program is started: that of this environment, unless the settings name another."""
    return settings.command or shlex.join([sys.executable, "-m", "lightning_mm"])


def _sbatch_lines(script: Script, settings: JobSettings) -> list[str]:
    found = {"job-name": script.name, "output": str(script.log)}
    for name, option in _OPTIONS:
        value = getattr(settings, name)
        if value is not None:
            found[option] = str(value)
    if settings.gpus_per_node and settings.gres:
        found["gres"] = f"{settings.gres}:{settings.gpus_per_node}"
    elif settings.gpus_per_node:
        found["gpus-per-node"] = str(settings.gpus_per_node)
    found["open-mode"] = "append"
    if script.resumes:
        found["signal"] = f"B:{settings.signal}@{settings.warn_before}"
    found |= settings.sbatch
    lines = [f"#SBATCH --{name}={_sbatch_value(value)}" for name, value in found.items()] + ["#SBATCH --requeue"]
    return [*lines, f"#LOCAL --jobs={settings.jobs}"] if settings.jobs > 1 else lines


def _setup_lines(settings: JobSettings) -> list[str]:
    lines = [f"module load {shlex.quote(name)} || exit 1" for name in settings.modules]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in settings.environment.items()]
    return [*lines, *settings.setup]


def _srun(settings: JobSettings) -> str:
    words = ["srun", "--kill-on-bad-exit=1"]
    if settings.cpus_per_task is not None:  # since Slurm 22.05 srun does not take it from sbatch
        words.append(f"--cpus-per-task={settings.cpus_per_task}")
    words += [f"--{name}={value}" for name, value in settings.srun.items()]
    return shlex.join(words)


def _word(word: str) -> str:
    """A word of a command for bash, in which ``$LIGHTNING_MM_TASK`` is replaced when it runs."""
    name = f"${TASK}"
    if name not in word:
        return shlex.quote(word)
    return "".join(f'"{name}"' if part == name else shlex.quote(part) for part in _split(word, name) if part)


def _split(word: str, name: str) -> list[str]:
    parts: list[str] = []
    for part in word.split(name):
        parts += [name, part]
    return parts[1:]


def _sbatch_value(value: str) -> str:
    """A value of an ``#SBATCH`` line, which Slurm splits at blanks unless they are quoted."""
    return value if " " not in value and "#" not in value else '"' + value.replace('"', '\\"') + '"'
