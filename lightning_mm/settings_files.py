"""YAML files of settings: keys and values, each key once; and which of them are secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.errors import LightningMMError, shown

DEEPEST = 100
"""Levels of lists and mappings inside each other that a file may have."""
MASK = "***"
"""Replaces the value of a secret."""
_SECRET = re.compile(
    r"(?i)(^|.*[_.-])(api[_-]?key|access[_-]?key|private[_-]?key|secret|secret[_-]?key|password|passwd|credentials?|"
    r"(auth|access|api|hf|bearer|refresh|wandb)[_-]token)$|^token$"
)
"""Names of settings whose values must not be saved or sent."""
Place = tuple[str | int, ...]
"""Keys and positions that lead to a value."""


def read_settings(path: Path, line_first: bool = True) -> dict[str, Any]:
    """Read a YAML file of settings, which exists.

    Args:
        path: The file.
        line_first: Whether messages name the line right after the file.

    Raises:
        LightningMMError: If it is no YAML, is empty, or holds something other than keys and values, a key twice, or
            itself; the message names file, line and column.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Distinct)  # a SafeLoader: no code is run
        _check_plain(content, 0, set())
    except RecursionError as error:
        raise LightningMMError(f"{path}: lists and mappings are too deep inside each other") from error
    except OSError as error:
        raise LightningMMError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:  # a number or a date may be none, too
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        place = f"{path}{line}: not YAML" if line_first else f"{path}: not YAML{line}"
        raise LightningMMError(f"{place}: {problem}") from error
    if content is None:
        raise LightningMMError(f"{path}: the file is empty; expected keys and values such as seed_everything: 0")
    if not isinstance(content, dict):
        raise LightningMMError(f"{path}: expected keys and values, got {type(content).__name__}")
    odd = next((key for key in content if not isinstance(key, str)), None)
    if odd is not None:
        raise LightningMMError(f"{path}: expected names of settings as keys, got {odd!r}")
    return content


def without_secrets(value: Any) -> Any:
    """Copy nested settings with the values of names such as ``api_key`` replaced by ``***``.

    References such as ``${oc.env:KEY}`` stay as they are.

    Example:
        >>> without_secrets({"lr": 0.1, "api_key": "abc", "hub": {"password": "${oc.env:PASSWORD}"}})
        {'lr': 0.1, 'api_key': '***', 'hub': {'password': '${oc.env:PASSWORD}'}}
    """
    return mapped(value, lambda place, leaf: MASK if _is_secret(place, leaf) else leaf)


def tell_secrets(words: Sequence[str]) -> bool:
    """Whether the words of a command give a value to a name such as ``api_key``, which programs may record.

    Example:
        >>> tell_secrets(["fit", "--model.init_args.api_key=abc"]), tell_secrets(["fit", "--seed_everything", "1"])
        (True, False)
    """
    return masked_words(words) != list(words)


def masked_words(words: Sequence[str]) -> list[str]:
    """The words of a command with the values of names such as ``api_key`` replaced by ``***``.

    Example:
        >>> masked_words(["compare", "--set", "model.api_key=abc", "--api_key", "abc"])
        ['compare', '--set', 'model.api_key=***', '--api_key', '***']
    """
    found = list(words)
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        following = words[place + 1] if place + 1 < len(words) else ""
        if equals and _is_secret((name.lstrip("-"),), value):
            found[place] = f"{name}={MASK}"
        elif not equals and word.startswith("-") and _is_secret((word.lstrip("-"),), following):
            found[place + 1] = MASK
    return found


def mapped(value: Any, change: Callable[[Place, Any], Any], place: Place = ()) -> Any:
    """Copy nested settings with every leaf changed."""
    if isinstance(value, Mapping):
        return {key: mapped(item, change, (*place, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(item, change, (*place, position)) for position, item in enumerate(value)]
    return change(place, value)


def _is_secret(place: Place, leaf: Any) -> bool:
    name = next((one for one in reversed(place) if isinstance(one, str)), "")  # of a value, or of the list it is in
    told = isinstance(leaf, (str, int)) and not isinstance(leaf, bool) and "${" not in str(leaf) and leaf != ""
    return told and _SECRET.match(name) is not None


class _Distinct(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is there twice; remove one of them", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def _check_plain(value: Any, depth: int, above: set[int]) -> None:
    """Refuse what contains itself, and text that cannot be written again."""
    if depth > DEEPEST or id(value) in above:
        raise RecursionError
    if isinstance(value, str):
        value.encode("utf-8")
        if "\0" in value:
            raise ValueError(f"a text holds the character of code 0: {shown(value)}")
    elif isinstance(value, (dict, list)):
        inside = above | {id(value)}
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_plain(item, depth + 1, inside)
