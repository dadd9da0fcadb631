"""Methods of the previous release's ``SweepResult``: they work for one more release, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any


class Moved:
    """A former method: calls what replaced it, with a warning that names the replacement.

    Args:
        new: What to write now.
        call: The replacement; takes the result and the arguments of the former method.
        static: Whether the former method took no result.
    """

    def __init__(self, new: str, call: Callable[..., Any], *, static: bool = False) -> None:
        self.new, self.call, self.static, self.name = new, call, static, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, result: object, owner: type) -> Callable[..., Any]:
        def former(*args: Any, **options: Any) -> Any:
            text = f"SweepResult.{self.name} is now {self.new}; the old name will be removed in the next release"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            bound = () if self.static or result is None else (result,)
            return self.call(*bound, *args, **options)

        return former


def function(name: str, arguments: str, *, static: bool = False) -> Moved:
    """A former method that is now a function of ``lightning_mm.results``."""

    def call(*args: Any, **options: Any) -> Any:
        # Imported when called: the module of the function imports SweepResult.
        return getattr(import_module("lightning_mm.results"), name)(*args, **options)

    return Moved(f"lightning_mm.results.{name}({arguments})", call, static=static)


def figure(name: str, part: str = "") -> Moved:
    """A former method that is now a method of ``Figures``, or a part of the figure that it returns."""

    def call(result: Any, method: str, metric: str | None = None, *args: Any, **options: Any) -> Any:
        found = getattr(result.figures(method, metric), name)(*args, **options)
        return getattr(found, part) if part else found

    return Moved(f"result.figures(method, metric).{name}(){'.' if part else ''}{part}", call)


class FormerMethods:
    """The former methods of ``SweepResult``."""

    save = function("save", "result, folder")
    to_csv = function("write_csv", "result, path")
    to_json = function("write_json", "result, path")
    to_png = function("write_heat_map", "result, path")
    to_markdown = function("markdown", "result")
    from_csv = function("read", "path", static=True)
    table = function("rich_table", "result")
    print = function("print_table", "result")
    renamed = function("renamed", "result, names")
    mean_std = figure("mean", "std")
    mean_interval = figure("mean", "interval")
    full_std = figure("full", "std")
    worst_std = figure("worst", "std")
    drop_std = figure("drop", "std")
    recovered_gap_std = figure("recovered_gap", "std")
    mean_per_seed = figure("mean_per_seed")
    recovered_gap_per_seed = figure("recovered_gap_per_seed")
    gap_means = figure("gap_means")
    complete_values = figure("complete_values")
