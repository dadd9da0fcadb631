"""Makes the config of a cell: files stacked, settings applied, changed as the recipe says."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.errors import LightningMMError

Run = Callable[[list[str]], dict[str, Any]]
"""Runs a command of the command line; returns ``seconds``, ``cpu_seconds`` and ``trained`` parameters of ``fit``."""
KEPT = ("seed_everything", "trainer", "model", "data")


def resolve(stack: Sequence[Path], overrides: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The config that ``lightning-mm fit`` would run with: files stacked, settings applied, references resolved."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run([*command_of("fit", stack, overrides), "--print_config"])
    except SystemExit:
        pass
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    callbacks = config["trainer"].get("callbacks")
    if isinstance(callbacks, Mapping):  # a single one may be written without a list
        config["trainer"]["callbacks"] = [callbacks]
    return {key: config[key] for key in KEPT}


def command_of(verb: str, stack: Sequence[Path], overrides: Mapping[str, Any]) -> list[str]:
    """The command of a verb with files stacked and settings applied."""
    command = [verb, *(part for path in stack for part in ("-c", str(path)))]
    for key, value in overrides.items():
        command.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    return command


def patched(config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a recipe's changes to a config.

    Args:
        config: A resolved config.
        patch: ``train_policy`` and ``val_policy`` of the data, ``fill`` of the task, ``callbacks`` to insert before the
            first ModelCheckpoint, ``init_args`` (class name to arguments) of callbacks in the config, and ``only``: the
            modalities to keep, see :func:`cut`.

    Raises:
        LightningMMError: If arguments are given for a callback that the config lacks.
    """
    changed: dict[str, Any] = deepcopy(dict(config))
    for key in ("train_policy", "val_policy"):
        if key in patch:
            changed["data"][key] = dict(patch[key])
    if "fill" in patch:
        changed["model"]["init_args"]["fill"] = dict(patch["fill"])
    if patch.get("callbacks"):
        present = changed["trainer"].get("callbacks") or []
        first = next((i for i, one in enumerate(present) if "ModelCheckpoint" in one["class_path"]), len(present))
        added = [dict(one) for one in patch["callbacks"]]
        changed["trainer"]["callbacks"] = [*present[:first], *added, *present[first:]]
    for name, init_args in (patch.get("init_args") or {}).items():
        present = changed["trainer"].get("callbacks") or []
        found = [one for one in present if one["class_path"].rpartition(".")[2] == name]
        if not found:
            names = [one["class_path"].rpartition(".")[2] for one in present]
            raise LightningMMError(f"callbacks: there is no {name!r} among those of the configs, {names}")
        for one in found:
            one["init_args"] = {**(one.get("init_args") or {}), **init_args}
    if "only" in patch:
        everything = set(changed["data"]["modalities"])
        changed["data"] = cut(changed["data"], everything, patch["only"])
        changed["model"] = cut(changed["model"], everything, patch["only"])
        changed["data"]["modalities"] = list(patch["only"])
    return changed


def cut(value: Any, everything: set[str], only: Sequence[str]) -> Any:
    """Keep some modalities in every mapping whose keys, and every list whose entries, are exactly all of them."""
    if isinstance(value, Mapping):
        if set(value) == everything:
            return {name: value[name] for name in only}
        return {key: cut(leaf, everything, only) for key, leaf in value.items()}
    if isinstance(value, list):
        if len(value) == len(everything) and all(isinstance(one, str) and one in everything for one in value):
            return [name for name in value if name in only]
        return [cut(leaf, everything, only) for leaf in value]
    return value
