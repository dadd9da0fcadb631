"""Shortens jsonargparse's messages to the key, what is wrong with it, and the nearest right one."""

from __future__ import annotations

import importlib
import inspect
import re
from argparse import ArgumentParser
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 500
"""Characters of a message that is shown unchanged."""

_NOT_ACCEPTED = re.compile(r"[Oo]ption '([^']+)' is not accepted")
_NOT_IN_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
_PROBLEM_WITH = re.compile(r"Problem with given class_path '([^']+)'")
_PARSER_KEY = re.compile(r'Parser key "([^"]+)"')
_NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_RETURNS = re.compile(r"Expected '([\w.]+)' to be a function that returns (\w+)")
_NO_KEYS = re.compile(r"'(\w+)' object has no attribute 'keys'")
_HEADING = re.compile(r"""^(Parser key "[^"]+":|Problem with given class_path '[^']+':)\s*""")
_NOISE = re.compile(
    r"^\s*(- Expected a <class 'NoneType'>|Given value( type)?:.*|Subtypes:.*|Errors:|"
    r"(- )?Does not validate against any of the Union subtypes|- Not a valid subclass of .*|"
    r"Subclass types expect one of:|"
    r"- a class path \(str\)|- a dict with.*|- Expected a path but .* either not accessible or invalid)\s*$"
)


def shorten(message: str, parser: ArgumentParser) -> str:
    """Describe a mistake in a config or on the command line in a few lines at most.

    Args:
        message: jsonargparse's message.
        parser: The parser that raised it; its options and those of its subcommands are the possible keys.
    """
    absent = re.search(r'Key "([\w.]+)" not found in namespace', message)
    if absent:
        return f"{absent[1]}: the configs do not set it; give it in a file or as --{absent[1]}"
    outer = re.search(r"Subcommand '\w+' does not accept option '([^']+)'", message)
    if outer:
        return _unknown(outer[1], _options(parser))
    unrecognized = re.search(r"unrecognized arguments: --([\w.+]+)", message, re.IGNORECASE)
    if unrecognized:
        return _unknown(unrecognized[1], _options(parser), dashes="--")
    inner = _NOT_ACCEPTED.search(message)
    if inner:
        owners = _PROBLEM_WITH.findall(message[: inner.start()])
        if owners:
            names = arguments_of(owners[-1])
            return f"{_where(message[: inner.start()])}: {_unknown(inner[1], names, owner=owners[-1])}"
        return _unknown(inner[1], _options(parser))
    group = _NOT_IN_GROUP.search(message)
    if group:
        return f"{_where(message)}.{group[1]}: {_unknown(group[2], ())}"
    attribute = _NO_ATTRIBUTE.search(message)
    if attribute:
        return f"{_where(message)}: {_unknown_class(f'{attribute[1]}.{attribute[2]}')}"
    returns = _RETURNS.search(message)
    if returns:
        return (
            f"{_where(message)}: {returns[1]!r} is a function without the annotation `-> {returns[2]}`; write it, and "
            f"return one, or give a class that is a {returns[2]}"
        )
    problems = _PROBLEM_WITH.findall(message)
    if problems and "No module named" in message:
        return f"{_where(message)}: {_unknown_class(problems[-1])}"
    return _plain(message)


def arguments_of(class_path: str) -> list[str]:
    """Names of the arguments of a class or function, and of its bases if it takes ``**kwargs``."""
    found = _import(class_path)
    if not callable(found):
        return []
    names: list[str] = []
    for owner in inspect.getmro(found)[:-1] if inspect.isclass(found) else [found]:
        function = owner.__dict__.get("__init__") if inspect.isclass(owner) else owner
        if function is None:
            continue
        parameters = inspect.signature(function).parameters.values()
        names += [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return [name for name in dict.fromkeys(names) if name != "self"]


def _unknown(key: str, known: Iterable[str], *, dashes: str = "", owner: str = "") -> str:
    known = list(known)
    what = f"unknown key {dashes + key!r}" + (f" of {owner}" if owner else "")
    close = get_close_matches(key, known, n=1)
    if close:
        return f"{what}; did you mean {dashes + close[0]!r}?"
    if known and len(known) <= 30:
        return f"{what}; expected one of {', '.join(known)}"
    return f"{what}; --help lists all keys, --print_config shows a config in full"


def _unknown_class(class_path: str) -> str:
    module_name, _, name = class_path.rpartition(".")
    module = _import(module_name)
    if module is None:
        return (
            f"cannot import {class_path!r}: {_why_not(module_name)}; modules are found in the folder in "
            "which the command runs, in the folders of PYTHONPATH, and where packages are installed"
        )
    close = get_close_matches(name, [one for one in dir(module) if inspect.isclass(getattr(module, one, None))], n=1)
    hint = f"; did you mean '{module_name}.{close[0]}'?" if close else ""
    return f"{module_name!r} has no class {name!r}{hint}"


def _why_not(module_name: str) -> str:
    """Why a module cannot be imported: it is not there, or its code raises an error."""
    try:
        importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            return f"there is no module {error.name!r}"
        return f"{module_name!r} imports {error.name!r}, which is not there"
    except Exception as error:
        return f"importing {module_name!r} raises {type(error).__name__}: {error}"
    return f"{module_name!r} has no such name"


def _where(message: str) -> str:
    """The path of keys to the mistake, e.g. ``model.model``."""
    return ".".join(_PARSER_KEY.findall(message)) or "config"


def _plain(message: str) -> str:
    """The message without the paths through unions and classes."""
    given = re.findall(r"^\s*Given value: (.{1,60})$", message, re.MULTILINE)
    lines = [
        _HEADING.sub("", line.strip().removeprefix("- ")) for line in message.splitlines() if not _NOISE.match(line)
    ]
    text = " ".join(line for line in lines if line).replace("<class '", "").replace("'>", "")
    text = _NO_KEYS.sub(r"expected keys and values in init_args, got a \1", text) or "this value is not of its type"
    if given and "Got value" not in text:
        text += f", got {given[-1]!r}"
    where = f"{_where(message)}: " if _PARSER_KEY.search(message) else ""
    return where + (text if len(text) <= LONGEST else text[:LONGEST] + " ...")


def _options(parser: ArgumentParser) -> Iterable[str]:
    for action in parser._actions:
        if isinstance(action.choices, dict):  # the subcommands
            for inner in action.choices.values():
                if isinstance(inner, ArgumentParser):
                    yield from _options(inner)
        else:
            yield from (option.lstrip("-") for option in action.option_strings if option.startswith("--"))


def _import(path: str) -> object | None:
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except Exception:  # whatever a user's module raises: this is about a better message, no more
            continue
        for name in parts[cut:]:
            found = getattr(found, name, None)
        return found
    return None
