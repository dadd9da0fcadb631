"""Values of the environment and secrets in configs: what is saved or sent holds the reference, never the value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lightning_mm.settings_files import Place, mapped, without_secrets

_FROM_ENVIRONMENT = "oc.env"


class References:
    """The ``${...}`` of the configs of one command, noted before they are resolved.

    Args:
        verb: The verb of the command; its config may be inside a mapping of that name.
    """

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.raw: dict[Place, str] = {}

    def note(self, config: Any) -> None:
        """Note the places of all references in a whole config that is not resolved yet."""
        inner = config.get(self.verb, config) if isinstance(config, Mapping) else None
        if _is_whole(inner):
            self.raw.update({path: leaf for path, leaf in _leaves(inner) if isinstance(leaf, str) and "${" in leaf})

    def kept(self, text: str) -> str:
        """A resolved config as YAML, in which values of the environment are references again."""
        if not any(_FROM_ENVIRONMENT in raw for raw in self.raw.values()):
            return text
        config = yaml.safe_load(text)
        if not _is_whole(config):
            return text  # that of one class, which is a part of another one
        values = {str(leaf) for path, leaf in _leaves(config) if _FROM_ENVIRONMENT in self.raw.get(path, "")} - {""}

        def keep(path: Place, leaf: Any) -> Any:
            raw = self.raw.get(path)
            if raw is None:
                return leaf
            return raw if _FROM_ENVIRONMENT in raw or any(value in str(leaf) for value in values) else leaf

        return _dumped(text, mapped(config, keep))


def _is_whole(config: Any) -> bool:
    return isinstance(config, Mapping) and "trainer" in config


def masked(text: str) -> str:
    """A config as YAML, in which the values of settings with names such as ``api_key`` are ``***``."""
    config = yaml.safe_load(text)
    found = without_secrets(config)
    return text if found == config else _dumped(text, found)


def _dumped(before: str, config: Any) -> str:
    """The config as YAML, under the comments that stood above it before."""
    head = re.match(r"(#.*\n)*", before)
    return f"{head[0] if head else ''}{yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}"


def _leaves(value: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _leaves(item, (*path, place))
    else:
        yield path, value
