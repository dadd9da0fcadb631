"""Which networks a sweep is of, and what all shards of a sweep share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from lightning_mm.adapters.saving.fingerprint import fingerprint
from lightning_mm.errors import LightningMMError
from lightning_mm.sweep.module import Run


def networks_of(tasks: Sequence[Any], runs: Sequence[Run]) -> dict[str, list[str]]:
    """Method to the fingerprints of its networks: of all parts of a task, without its adapter where that is off.

    Methods of networks that have no values here (on the device ``meta``) are left out.
    """
    parts: dict[int, dict[str, str]] = {}
    found: dict[str, list[str]] = {}
    unknown: set[str] = set()
    for run in runs:
        task = cast(nn.Module, tasks[run.task])
        try:
            if run.task not in parts:
                parts[run.task] = _parts(task)
        except LightningMMError:
            unknown.add(run.method)
            continue
        used = sorted(item for item in parts[run.task].items() if item[0] != "adapter" or not run.disabled)
        found.setdefault(run.method, []).append(_hash(used))
    return {method: list(dict.fromkeys(ids)) for method, ids in found.items() if method not in unknown}


def identity_of(**shared: Any) -> str:
    """Hash what all shards of a sweep share, in plain types."""
    return _hash(shared)


def _parts(task: nn.Module) -> dict[str, str]:
    """The fingerprint of each child of a task, and of the parameters of its own."""
    own = nn.Module()
    for name, parameter in task.named_parameters(recurse=False):
        own.register_parameter(name, parameter)
    for name, buffer in task.named_buffers(recurse=False):
        own.register_buffer(name, buffer)
    return {"": fingerprint(own), **{name: fingerprint(child) for name, child in task.named_children()}}


def _hash(content: Mapping[str, Any] | Sequence[Any]) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
