"""Checks and corrects the arguments of the command line before they are parsed."""

from __future__ import annotations

import re
import zipfile
from itertools import pairwise
from pathlib import Path

import yaml

from lightning_mm.errors import UsageError


def check_configs(args: list[str]) -> None:
    """Refuse config files that are no YAML: jsonargparse's message does not say which one it is.

    Raises:
        UsageError: The message names file, line and column.
    """
    separate = [value for flag, value in pairwise(args) if flag in ("-c", "--config")]
    for path in [*separate, *(one.removeprefix("--config=") for one in args if one.startswith("--config="))]:
        if not Path(path).is_file():
            continue  # jsonargparse names it; it may also be a URL or the YAML itself
        try:
            yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise UsageError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error


def check_checkpoint(name: str, path: str) -> None:
    """Refuse a path that does not exist or was not written by ``torch.save``, before data and network are made.

    Raises:
        UsageError: The message names the setting and the path.
    """
    if "://" in path:
        raise UsageError(
            f"{name}: {path!r} is a URL, and a checkpoint is only read from a file, as tensors and plain types; "
            "download it and give the file"
        )
    if not Path(path).is_file():
        hint = "`best` is known only to the process that trained; " if path == "best" else ""
        hint = "it is a folder; " if Path(path).is_dir() else hint
        raise UsageError(f"{name}: no file at {path!r}; {hint}give the .ckpt file that a `fit` wrote")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{name}: {path!r} is not a checkpoint (not written by torch.save, or cut off)")


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
