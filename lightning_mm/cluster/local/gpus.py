"""Which GPUs of this machine a task of a local job gets."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS = 30.0
"""How long ``nvidia-smi`` may take."""


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The GPUs that a process may use: those of ``CUDA_VISIBLE_DEVICES``, or all; ``None`` if that is not known.

    Example:
        >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "1, GPU-8f3a,2"})
        ['1', 'GPU-8f3a', '2']
    """
    given = environment.get(VISIBLE)
    if given is not None:
        return [one for one in (part.strip() for part in given.split(",")) if one and one != "-1"]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.findall(r"(?m)^GPU (\d+):", done.stdout)
    return found if done.returncode == 0 and found else None


def gpus_for(visible: Sequence[str], used: Sequence[str], wanted: int, jobs: int) -> list[str] | None:
    """Choose the GPUs of a task that starts.

    Args:
        visible: Those that it may use.
        used: Those of the tasks that run; one that several share is there as often.
        wanted: How many it needs to itself; 0 for an equal share among as many tasks as may run, which others may have
            to share where there are fewer GPUs than tasks.
        jobs: How many tasks may run at the same time.

    Returns:
        The GPUs, in the order of ``visible``; ``None`` if it has to wait for others.

    Example:
        >>> gpus_for(["0", "1", "2", "3"], ["0", "1"], 0, jobs=2)
        ['2', '3']
        >>> gpus_for(["0", "1"], ["0"], 2, jobs=2) is None
        True
    """
    loads = Counter(used)
    count = wanted or max(1, len(visible) // jobs)
    chosen = sorted(visible, key=lambda one: loads[one])[:count]
    if wanted and (len(chosen) < wanted or any(loads[one] for one in chosen)):
        return None
    return [one for one in visible if one in chosen]
