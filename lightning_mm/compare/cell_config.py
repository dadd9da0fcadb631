"""Makes the config of a cell: files stacked, settings applied, changed as the recipe says."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.errors import LightningMMError, NotApplicableError
from lightning_mm.settings_files import Place, mapped, read_settings

Run = Callable[[list[str]], dict[str, Any]]
"""Runs a command of the command line; returns ``seconds``, ``cpu_seconds`` and ``trained`` parameters of ``fit``."""
ROOT = "${trainer.default_root_dir}"
KEPT = ("seed_everything", "trainer", "model", "data")


def config_of(
    stack: Sequence[Path], overrides: Mapping[str, Any], patch: Mapping[str, Any], run: Run
) -> dict[str, Any]:
    """The config of a cell.

    Raises:
        NotApplicableError: If the recipe is for other networks.
        LightningMMError: If a setting does not exist or has a wrong value.
    """
    with recast(stack, patch.get("classes")) as files:
        return patched(resolve(files, overrides, run), patch)


@contextmanager
def recast(stack: Sequence[Path], classes: Mapping[str, Any] | None) -> Iterator[Sequence[Path]]:
    """Config files with other classes for task and network, in a folder that is removed afterwards.

    A change of class on the command line would lose the arguments that are classes themselves, and references.

    Args:
        stack: Config files; those that name no class of a network stay as they are.
        classes: ``task`` and ``network``: the classes; ``of``: the class of the task in the files; ``keep``: which
            arguments of the network stay, ``also``: which others do if they are there. None changes nothing.

    Raises:
        NotApplicableError: If the files are for another task, or their network lacks an argument that stays.
    """
    if classes is None:
        yield stack
        return
    with tempfile.TemporaryDirectory(prefix="lightning_mm-recast-") as folder:
        files = []
        for number, path in enumerate(stack):
            content = read_settings(path, line_first=False)
            files.append(path)
            if _recast(content.get("model"), classes, path):
                files[-1] = Path(folder) / f"{number}_{path.name}"
                files[-1].write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        yield files


def _recast(task: Any, classes: Mapping[str, Any], path: Path) -> bool:
    """Change the section of a task in place; whether there was a network of another class."""
    arguments = task.get("init_args") if isinstance(task, dict) else None
    network = arguments.get("model") if isinstance(arguments, dict) else None
    if (
        arguments is None
        or not isinstance(network, dict)
        or network.get("class_path", classes["network"]) == classes["network"]
    ):
        return False
    given = network.get("init_args") or {}
    lacking = [name for name in classes["keep"] if name not in given]
    name = str(task.get("class_path", classes["of"]))
    if name.rpartition(".")[2] != classes["of"] or lacking:
        what = f"is a {name}" if not lacking else f"has the network {network['class_path']} without {lacking[0]}"
        raise NotApplicableError(
            f"this method is for a {classes['of']} whose network has {' and '.join(classes['keep'])}, and that of "
            f"{path} {what}; leave it out of the study"
        )
    task["class_path"] = classes["task"]
    arguments["model"] = {
        "class_path": classes["network"],
        "init_args": {
            key: value for key, value in given.items() if key in (*classes["keep"], *classes.get("also", ()))
        },
    }
    return True


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
            first ModelCheckpoint, ``init_args`` (class name to arguments, dotted ones too) of callbacks in the
            config, and ``only``: the modalities to keep, see :func:`cut`.

    Raises:
        LightningMMError: If arguments are given for a callback, or inside an argument, that the config lacks.
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
            one["init_args"] = _with(one.get("init_args") or {}, init_args, name)
    if "only" in patch:
        everything = set(changed["data"]["modalities"])
        changed["data"] = cut(changed["data"], everything, patch["only"])
        changed["model"] = cut(changed["model"], everything, patch["only"])
        changed["data"]["modalities"] = list(patch["only"])
    return changed


def _with(arguments: Mapping[str, Any], given: Mapping[str, Any], callback: str) -> dict[str, Any]:
    """Arguments of a callback with others; a dotted name such as ``adapter.init_args.rank`` changes a part of one."""
    changed = dict(arguments)
    for key, value in given.items():
        inner = changed
        *path, last = key.split(".")
        for part in path:
            if not isinstance(inner.get(part), Mapping):
                raise LightningMMError(f"callbacks: {callback}: {key}: the configs give it no {part} to change")
            inner[part] = dict(inner[part])
            inner = inner[part]
        inner[last] = value
    return changed


def movable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with paths into its ``trainer.default_root_dir`` as references to it, so that another folder holds.

    Example:
        >>> movable({"trainer": {"default_root_dir": "out/a", "callbacks": [{"dirpath": "out/a/weights"}]}})["trainer"]
        {'default_root_dir': 'out/a', 'callbacks': [{'dirpath': '${trainer.default_root_dir}/weights'}]}
    """
    folder = config["trainer"].get("default_root_dir")

    def change(place: Place, leaf: Any) -> Any:
        inside = isinstance(leaf, str) and bool(folder) and f"{leaf}/".startswith(f"{folder}/")
        return ROOT + leaf.removeprefix(folder) if inside and place != ("trainer", "default_root_dir") else leaf

    return {key: mapped(value, change, (key,)) for key, value in config.items()}


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
