"""Settings of kinds, bases and fills in plain types: the class, and the attributes named like ``__init__`` arguments.

A kind may contain other kinds in its arguments, and a fill other fills; they are written in the same form.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from typing import Any, TypeVar

from lightning_mm.adapters.kinds.base import Kind
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Fill

T = TypeVar("T")


def settings_of(thing: object) -> dict[str, Any]:
    """Return ``{"class_path": ..., "init_args": {...}}`` in plain types.

    Raises:
        LightningMMError: If an argument is not stored as an attribute of the same name, or is not a plain type.
    """
    init_args: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(thing)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(thing, name):
            raise LightningMMError(
                f"{type(thing).__name__} cannot be saved: it must store its argument {name!r} as an attribute of the "
                "same name"
            )
        init_args[name] = getattr(thing, name)
    path = public_path(f"{type(thing).__module__}.{type(thing).__qualname__}")
    state = {"class_path": path, "init_args": init_args}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(state, default=_nested, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise LightningMMError(
            f"the settings of {type(thing).__name__} must be plain types, kinds or fills to be saved: {error}"
        ) from None
    return plain


def public_path(path: str) -> str:
    """Return the shortest public name of a class of this package, which survives moved files; keep other paths.

    Example:
        >>> public_path("lightning_mm.adapters.ssf.SSF"), public_path("mine.kinds.SSF")
        ('lightning_mm.adapters.SSF', 'mine.kinds.SSF')
    """
    package, *rooms = path.split(".")
    if package != "lightning_mm" or len(rooms) < 2:
        return path
    if rooms[0] not in ("adapters", "missing"):  # a path in a file must not choose what is imported
        return path
    room = importlib.import_module(f"{package}.{rooms[0]}")
    return f"{room.__name__}.{rooms[-1]}" if hasattr(room, rooms[-1]) else path


def with_public_paths(config: Any) -> Any:
    """Return plain settings with every ``class_path`` replaced by its :func:`public_path`, for comparison."""
    if isinstance(config, list):
        return [with_public_paths(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {k: public_path(v) if k == "class_path" else with_public_paths(v) for k, v in config.items()}


def with_defaults(config: Any) -> Any:
    """Return plain settings with the defaults of arguments that came after they were written, for comparison."""
    if isinstance(config, list):
        return [with_defaults(item) for item in config]
    if not isinstance(config, dict):
        return config
    full = {key: with_defaults(value) for key, value in config.items()}
    if not (isinstance(full.get("class_path"), str) and isinstance(full.get("init_args"), dict)):
        return full
    module, _, name = full["class_path"].rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    if not isinstance(cls, type):
        return full
    defaults = {
        key: json.loads(json.dumps(parameter.default, default=_nested))
        for key, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty and key not in full["init_args"]
    }
    return {**full, "init_args": {**full["init_args"], **defaults}}


def from_settings(state: dict[str, Any], expected: type[T]) -> T:
    """Rebuild the object; only subclasses of ``expected`` are created, and no module is imported for it.

    A file must not choose what is imported, which runs code: your own classes are found once you have imported them.

    Raises:
        LightningMMError: If the class is not known or is not such a subclass.
    """
    path = public_path(str(state["class_path"]))
    module, _, name = path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    if cls is None:
        own = module.partition(".")[0] == "lightning_mm"
        way_out = "it is of another version of lightning_mm" if own else f"import {module} first"
        raise LightningMMError(f"the class {path!r} of the saved adapter was not found; {way_out}")
    if not (isinstance(cls, type) and issubclass(cls, expected)):
        raise LightningMMError(
            f"expected a {expected.__name__} in the saved adapter, got {path!r}; save the adapter again"
        )
    nested: type[Any] = Fill if issubclass(cls, Fill) else Kind
    return cls(**{key: _built(value, nested) for key, value in state["init_args"].items()})


def _nested(value: object) -> dict[str, Any]:
    if isinstance(value, (Kind, Fill)):
        return settings_of(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _built(value: Any, nested: type[Any]) -> Any:
    """Rebuild the objects of type ``nested`` that are written as settings inside a value."""
    if isinstance(value, list):
        return [_built(item, nested) for item in value]
    if isinstance(value, dict) and set(value) == {"class_path", "init_args"}:
        return from_settings(value, nested)
    if isinstance(value, dict):
        return {key: _built(item, nested) for key, item in value.items()}
    return value
