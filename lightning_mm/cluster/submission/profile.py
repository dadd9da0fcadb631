"""Profiles: YAML files that say what jobs of a cluster ask for, by path or by name in the user's config folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lightning_mm.errors import DataNotFoundError, LightningMMError, shown
from lightning_mm.schemas.job_settings import JobSettings
from lightning_mm.settings_files import read_settings

ENDS = (".yaml", ".yml")


def profiles_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where profiles are found by name: ``~/.config/lightning_mm/profiles``, or below ``XDG_CONFIG_HOME``."""
    home = environment.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "lightning_mm" / "profiles"


def find_profile(given: str) -> Path:
    """The file of a profile.

    Args:
        given: A path (with a ``/`` or the end ``.yaml``), or the name of a file in :func:`profiles_folder`.

    Raises:
        DataNotFoundError: If there is none; the message names those that there are.
    """
    if "/" in given or os.sep in given or given.endswith(ENDS):
        path = Path(given).expanduser()
        if not path.is_file():
            raise DataNotFoundError(f"--profile: there is no file {path}")
        return path
    folder = profiles_folder()
    there = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix in ENDS and path.is_file()}
    if given in there:
        return there[given]
    close = get_close_matches(given, there, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(there)}" if there else "there is none yet"
    raise DataNotFoundError(f"--profile: no profile {given!r} in {folder}; {hint}; or give the path of a YAML file")


def read_profile(path: Path) -> dict[str, Any]:
    """Read the keys of a profile, checked.

    Raises:
        LightningMMError: If it is no YAML, or a key or value is wrong; the message names it.
    """
    content = read_settings(path)  # its errors: no YAML, keys that are there twice
    # As they were written: YAML takes 24:00:00 for a number of seconds, and 0123 for an octal one.
    written: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    given = {key: value for key, value in written.items() if content[key] is not None}
    settings_of(given, str(path))
    return given


def settings_of(given: Mapping[str, Any], where: str) -> JobSettings:
    """Check settings of a job.

    Args:
        given: Key to value, as texts or what they mean.
        where: The file or command, for the message.

    Raises:
        LightningMMError: If a key does not exist or a value is wrong; the message names the key, and a similar one.
    """
    try:
        return JobSettings.model_validate(dict(given))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        known = list(JobSettings.model_fields)
        close = get_close_matches(place.replace("-", "_"), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected some of {', '.join(known)}"
        raise LightningMMError(
            f"{where}: unknown key {place!r}; {hint} (options of sbatch that have no key here go below `sbatch:`)"
        )
    message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    raise LightningMMError(f"{where}: {place}: expected {_plain(message)}, got {shown(problem['input'])}")


def _plain(message: str) -> str:
    for technical, plain in (
        ("a valid integer, unable to parse string as an integer", "a whole number"),
        ("a valid integer", "a whole number"),
        ("a valid string", "text"),
        ("a valid dictionary", "keys and values"),
        ("a valid list", "a list, with - in front of each entry"),
        ("greater than or equal to", "at least"),
    ):
        message = message.replace(technical, plain)
    return message
