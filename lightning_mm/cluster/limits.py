"""Whether a job's time is too much for its partition, which Slurm may queue for ever, or too little to train."""

from __future__ import annotations

import re

EARLY = 60
"""Seconds by which Slurm may send a warning too early, as ``sbatch --signal`` says."""
_UNITS = (24 * 60, 60, 1, 1 / 60)
_FIRST = {(True, 1): 0, (True, 2): 0, (True, 3): 0, (False, 1): 2, (False, 2): 2, (False, 3): 1}


def minutes_of(text: str) -> float | None:
    """How many minutes a time limit of Slurm is; ``None`` for no limit, or what is none.

    Example:
        >>> minutes_of("90"), minutes_of("1:30:00"), minutes_of("1-12"), minutes_of("UNLIMITED")
        (90.0, 90.0, 2160.0, None)
    """
    if re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text) is None:
        return None
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    first = _FIRST[bool(dash), len(parts)]
    given = [days or 0, *parts] if dash else parts
    return float(sum(int(number) * unit for number, unit in zip(given, _UNITS[first:])))


def beyond(script: str, partitions: str) -> str:
    """What a script asks for that none of its partitions allows; empty if one does, or a ``--qos`` may allow more.

    Args:
        script: With its ``#SBATCH`` lines.
        partitions: Those that it may run in, as ``scontrol show partition --oneliner`` prints them.
    """
    asked = _asked(script)
    if "qos" in asked:
        return ""
    problems = []
    for line in filter(None, partitions.splitlines()):
        limits = dict(re.findall(r"(\w+)=(\S*)", line))
        name = limits.get("PartitionName", "")
        time, longest = minutes_of(asked.get("time", "")), minutes_of(limits.get("MaxTime", ""))
        nodes, most = asked.get("nodes", ""), limits.get("MaxNodes", "")
        if time is not None and longest is not None and time > longest:
            problems.append(f"partition {name} has a time limit of {limits['MaxTime']}, got --time {asked['time']}")
        elif nodes.isdigit() and most.isdigit() and int(nodes) > int(most):
            problems.append(f"partition {name} gives a job at most {most} nodes, got --nodes {nodes}")
        else:
            return ""
    return "; ".join(problems)


def too_short(script: str) -> str:
    """Why a training may be warned of its time limit as soon as it starts; empty if not, or if it is not warned."""
    asked = _asked(script)
    time, warning = minutes_of(asked.get("time", "")), re.search(r"@(\d+)$", asked.get("signal", ""))
    if time is None or warning is None or 60 * time > int(warning[1]) + EARLY:
        return ""
    return (
        f"--time {asked['time']} leaves nothing to train: Slurm warns {warning[1]} s before that is over "
        f"(--warn_before), and up to {EARLY} s earlier"
    )


def _asked(script: str) -> dict[str, str]:
    """The options in a script."""
    return dict(re.findall(r"(?m)^#SBATCH --([\w-]+)=(\S+)$", script))
