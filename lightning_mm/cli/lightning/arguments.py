"""Checks and corrects the arguments of the command line before they are parsed."""

from __future__ import annotations

import re
import zipfile
from itertools import pairwise
from pathlib import Path

from lightning_mm.errors import LightningMMError, UsageError
from lightning_mm.settings_files import read_settings
from lightning_mm.tasks.checkpoints import read_checkpoint


def check_configs(args: list[str]) -> None:
    """Refuse config files that are no keys and values in YAML: jsonargparse's message does not say which one it is.

    Raises:
        UsageError: The message names file, line and column.
    """
    separate = [value for flag, value in pairwise(args) if flag in ("-c", "--config")]
    for path in [*separate, *(one.removeprefix("--config=") for one in args if one.startswith("--config="))]:
        if is_file(path):  # jsonargparse names others; it may also be a URL or the YAML itself
            try:
                read_settings(Path(path))
            except LightningMMError as error:
                raise UsageError(str(error)) from error


def is_file(path: str) -> bool:
    """Whether there is a file; False for texts that cannot be a path."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def check_checkpoint(name: str, path: str) -> None:
    """Refuse a path that is no checkpoint of tensors and plain types, before data and network are made.

    Raises:
        UsageError: The message names the setting and the path.
        LightningMMError: If the file is damaged or asks for code.
    """
    if "://" in path:
        raise UsageError(
            f"{name}: {path!r} is a URL, and a checkpoint is only read from a file, as tensors and plain types; "
            "download it and give the file"
        )
    if not is_file(path):
        hint = "`best` is known only to the process that trained; " if path == "best" else ""
        hint = "it is a folder; " if Path(path).is_dir() else hint
        raise UsageError(f"{name}: no file at {path!r}; {hint}give the .ckpt file that a `fit` wrote")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{name}: {path!r} is not a checkpoint (not written by torch.save, or cut off)")
    read_checkpoint(path, in_place=True)


def with_nested_nulls(args: list[str]) -> list[str]:
    """Arguments in which ``null`` means null for settings of a class or group inside another class too.

    jsonargparse 4.53 reads ``--model.init_args.model.init_args.name null`` as the text "None" if the setting may be a
    text, and refuses ``--model.init_args.distillation.layers null``; given as a part of its class or group it is read
    right.

    Example:
        >>> with_nested_nulls(["--a.init_args.b.init_args.c", "null", "--a.init_args.d=null"])
        ['--a.init_args.b', '{init_args: {c: null}}', '--a.init_args.d=null']
        >>> with_nested_nulls(["--a.init_args.b.c=null"])
        ['--a.init_args.b', '{c: null}']
    """
    split = [part for one in args for part in (one.rsplit("=", 1) if _is_nested(one.removesuffix("=null")) else [one])]
    found: list[str] = []
    for word in split:
        if word == "null" and found and _is_nested(found[-1]):
            owner, _, name = found.pop().rpartition(".")
            inner = f"{{{name}: null}}"
            if owner.endswith(".init_args"):
                owner, inner = owner.removesuffix(".init_args"), f"{{init_args: {inner}}}"
            found += [owner, inner]
        else:
            found.append(word)
    return found


def _is_nested(flag: str) -> bool:
    return re.fullmatch(r"--[\w.]+\.init_args\.[\w.]+\.\w+", flag) is not None
