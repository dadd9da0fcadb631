"""Checks the content of a study; messages name file and key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning_mm.errors import DataNotFoundError, LightningMMError, shown
from lightning_mm.settings_files import read_settings

RESERVED = ("majority", "configs", "report")
"""Names that a method may not have: a row of the table, and folders next to those of methods."""
OWN = {
    **dict.fromkeys(("data", "data.modalities"), "write data.modalities into a config, the study reads it there"),
    "seed_everything": "the study sets it; write `seeds`",
    "trainer.default_root_dir": "the study sets it; write `out`",
}
"""Settings that a study does not take, and why."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the keys and values of a YAML file."""
    if not path.is_file():
        raise DataNotFoundError(f"no file at {path}; give the YAML file of a study or of one of its configs")
    return read_settings(path, line_first=False)


def check_keys(where: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse keys that do not exist."""
    for key in content:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(known)}"
            raise LightningMMError(f"{where}: unknown key {shown(key)}; {hint}")


def check_name(where: str, name: Any) -> str:
    """Check a name, which becomes a folder and a column."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or name in RESERVED:
        raise LightningMMError(
            f"{where}: a name is made of letters, digits, '_', '-' and '.', begins with a letter or a digit, and is "
            f"none of {', '.join(RESERVED)}; got {shown(name)}"
        )
    return name


def typed(where: str, content: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    """Return a value of one type, ``default`` if missing."""
    value = content.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {str: "text", int: "a whole number", bool: "true or false", dict: "keys and values", list: "a list"}
        raise LightningMMError(f"{where}: {key}: expected {words[kind]}, got {shown(value)}")
    return value


def seeds(where: str, key: str, value: Any) -> tuple[int, ...]:
    """Check distinct whole numbers that a random generator takes."""
    whole = isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    if not whole or not value or len(set(value)) != len(value) or min(value) < 0 or max(value) >= 2**32:
        raise LightningMMError(
            f"{where}: {key}: expected a list of distinct whole numbers such as [0, 1], got {shown(value)}"
        )
    return tuple(value)


def files(path: Path, key: str, names: Any) -> tuple[Path, ...]:
    """Return files next to a study, all of which exist and hold YAML."""
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise LightningMMError(f"{path}: {key}: expected a list of files, got {shown(names)}")
    found = tuple(path.parent / name for name in listed)
    for file in found:
        if not file.is_file():
            raise DataNotFoundError(f"{path}: {key}: no file at {file}")
        read_yaml(file)
    return found


def settings(path: Path, key: str, value: Any) -> dict[str, Any]:
    """Check dotted keys and values of the runs' configs; those that a study sets itself are refused."""
    found = mapping(path, key, value)
    for name in found:
        if name in OWN:
            raise LightningMMError(f"{path}: {key}: {name}: {OWN[name]}")
    return found


def mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    """Check names and values."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise LightningMMError(f"{path}: {key}: expected dotted keys and values, got {shown(value)}")
    return dict(value)


def corruptions(path: Path, value: Any, modalities: Sequence[str]) -> dict[str, list[Any]]:
    """Check modalities and lists of classes with settings; the sweep makes them."""
    found = mapping(path, "corruptions", value)
    for name, kinds in found.items():
        where = f"{path}: corruptions: {name}"
        if name not in modalities:
            raise LightningMMError(f"{where}: unknown modality; expected some of {list(modalities)}")
        if not isinstance(kinds, list) or not all(isinstance(one, Mapping) and "class_path" in one for one in kinds):
            raise LightningMMError(
                f"{where}: expected a list such as [{{class_path: lightning_mm.data.GaussianNoise}}], got "
                f"{shown(kinds)}"
            )
    return found


def severities(path: Path, value: Any) -> tuple[int, ...]:
    """Check a list of severities of corruptions; empty if missing."""
    if value is None:
        return ()
    found = seeds(f"{path}", "severities", value)
    if not all(1 <= one <= 5 for one in found):
        raise LightningMMError(f"{path}: severities: expected some of [1, 2, 3, 4, 5], got {shown(value)}")
    return found


def tuning(where: str, path: Path, value: Any) -> dict[str, list[Any]]:
    """Check at most one key with distinct values to choose from."""
    tune = settings(path, f"{where.removeprefix(f'{path}: ')}: tune", value)
    if len(tune) > 1 or not all(isinstance(values, list) and values for values in tune.values()):
        raise LightningMMError(f"{where}: tune: expected one key and a list of values, got {shown(tune)}")
    for key, values in tune.items():
        if len({str(one) for one in values}) < len(values):
            raise LightningMMError(f"{where}: tune: {key}: expected distinct values, got {shown(values)}")
    return tune
