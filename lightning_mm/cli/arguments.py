"""What is put right in the arguments of the command line before they are parsed."""

from __future__ import annotations

import re


def with_nested_nulls(args: list[str]) -> list[str]:
    """Arguments in which ``null`` means null for settings of a class inside of a class, too.

    jsonargparse 4.53 reads ``--model.init_args.model.init_args.name null`` as the text "None" where the setting may be
    a text; given as a part of its class it is read right.

    Example:
        >>> with_nested_nulls(["--a.init_args.b.init_args.c", "null", "--a.init_args.d=null"])
        ['--a.init_args.b', '{init_args: {c: null}}', '--a.init_args.d=null']
    """
    split = [part for one in args for part in (one.rsplit("=", 1) if _is_nested(one.removesuffix("=null")) else [one])]
    found: list[str] = []
    for word in split:
        if word == "null" and found and _is_nested(found[-1]):
            owner, _, name = found.pop().rpartition(".init_args.")
            found += [owner, f"{{init_args: {{{name}: null}}}}"]
        else:
            found.append(word)
    return found


def _is_nested(flag: str) -> bool:
    return re.fullmatch(r"--[\w.]+\.init_args\.[\w.]+\.init_args\.\w+", flag) is not None
