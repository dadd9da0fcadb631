"""Checks arguments and results of a call against the annotations of the function, shapes included.

jaxtyping compares the named sizes of one call (``Float[Tensor, "batch channel"]``), beartype checks the rest and allows
an int for a float, as PEP 484 does. A function is prepared at its first call. Checks take a third of the time of all
tests, so of the calls after the first ``ALL_OF_THE_FIRST`` of a function in a process one in ``ONE_IN`` is checked.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_switch = {"on": True}
ALL_OF_THE_FIRST = 1000
ONE_IN = 16


@contextmanager
def unchecked() -> Iterator[None]:
    """Check no call inside of it: for what traces calls, and for mistakes on purpose."""
    _switch["on"] = False
    try:
        yield
    finally:
        _switch["on"] = True


def checked(thing: Any) -> Any:
    """Decorate a function, or a dataclass, whose ``__init__`` is checked."""
    if isinstance(thing, type):
        own = vars(thing).get("__init__")
        if dataclasses.is_dataclass(thing) and own is not None and not hasattr(own, "__wrapped__"):
            thing.__init__ = checked(own)  # type: ignore[misc]
        return thing
    # a generator runs inside of other calls, whose names for sizes it would meet
    if not thing.__annotations__ or inspect.isgeneratorfunction(thing):
        return thing
    checking: Callable[..., Any] | None = None
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checking, calls
        if not _switch["on"]:
            return thing(*args, **kwargs)
        calls += 1
        if calls > ALL_OF_THE_FIRST and calls % ONE_IN:
            return thing(*args, **kwargs)
        checking = checking or _prepare(thing)
        with jaxtyped("context"):
            return checking(*args, **kwargs)

    return functools.wraps(thing)(call)


def _prepare(function: FunctionType) -> Callable[..., Any]:
    """Check a copy whose annotations are objects, not text; what only a type checker can look up is not checked."""
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, function.__qualname__
    copy.__module__ = function.__module__
    hints = function.__annotations__
    copy.__annotations__ = {name: _resolved(hint, function.__globals__) for name, hint in hints.items()}
    checking = _check(copy)
    # a size such as "{self.width}" is looked up among the arguments
    return jaxtyped(checking, typechecker=None) if any("{" in str(hint) for hint in hints.values()) else checking


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    try:
        return eval(annotation, names) if isinstance(annotation, str) else annotation
    except NameError:
        return Any
