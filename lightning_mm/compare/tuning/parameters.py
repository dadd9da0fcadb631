"""What a search may choose: some values, or a range; named as W&B sweeps name them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_mm.compare import checks
from lightning_mm.errors import LightningMMError, shown

DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
KEYS = ("values", "min", "max", "distribution")
EXAMPLES = "{values: [0, 0.05]} or {min: 1.0e-4, max: 0.1, distribution: log_uniform_values}"
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
"""Numbers such as 1e-3, which YAML 1.1 reads as text."""
DIGITS = 6
"""Significant digits of a drawn number."""


@dataclass(frozen=True)
class Parameter:
    """A setting that a search chooses: one of some values, or a number of a range.

    Args:
        name: Dotted key of the setting.
        values: What to choose from; empty for a range.
        low: The smallest number.
        high: The largest number.
        distribution: ``uniform``, ``log_uniform_values`` (uniform logarithms) or ``int_uniform`` (whole numbers), as in
            W&B sweeps.

    Example:
        >>> Parameter("lr", low=0.001, high=0.1, distribution="log_uniform_values").draw(0.5)
        0.01
        >>> Parameter("width", values=(8, 16, 32)).draw(0.9)
        32
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    distribution: str = ""

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that a run must take if it takes all: those of the list, or both ends of the range."""
        return self.values or (self.low, self.high)

    def draw(self, number: float) -> Any:
        """The value at a place in the distribution.

        Args:
            number: The place, at least 0 and below 1: the share of values below it.
        """
        if self.values:
            return self.values[int(number * len(self.values))]
        if self.distribution == "int_uniform":
            return int(self.low) + int(number * (int(self.high) - int(self.low) + 1))
        if self.distribution == "uniform":
            drawn = self.low + number * (self.high - self.low)
        else:
            low, high = math.log(self.low), math.log(self.high)
            drawn = math.exp(low + number * (high - low))
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    def content(self) -> dict[str, Any]:
        """As a W&B sweep writes it."""
        if self.values:
            return {"values": list(self.values)}
        return {"distribution": self.distribution, "min": self.low, "max": self.high}


def parameter(where: str, name: str, content: Any) -> Parameter:
    """Read a parameter of a search.

    Args:
        where: The start of messages.
        name: Dotted key of the setting.
        content: ``values``, or ``min``, ``max`` and ``distribution``.

    Raises:
        LightningMMError: If it is something else, or an empty range.
    """
    where = f"{where}: {name}"
    if not isinstance(content, Mapping):
        raise LightningMMError(f"{where}: expected {EXAMPLES}, got {shown(content)}")
    checks.check_keys(where, content, KEYS)
    if "values" in content:
        values = content["values"]
        if len(content) > 1 or not isinstance(values, list) or not values:
            raise LightningMMError(f"{where}: expected {EXAMPLES}, got {shown(dict(content))}")
        values = [plain(value) for value in values]
        if len({str(one) for one in values}) < len(values):
            raise LightningMMError(f"{where}: expected distinct values, got {shown(values)}")
        return Parameter(name, tuple(values))
    low, high = (plain(content.get(end)) for end in ("min", "max"))
    whole = all(isinstance(end, int) for end in (low, high))
    distribution = content.get("distribution", "int_uniform" if whole else "uniform")
    if distribution == "log_uniform":
        raise LightningMMError(
            f"{where}: log_uniform of W&B takes exponents for min and max; write log_uniform_values, which takes the "
            "numbers themselves"
        )
    if distribution not in DISTRIBUTIONS:
        raise LightningMMError(
            f"{where}: distribution: expected one of {', '.join(DISTRIBUTIONS)}, got {shown(distribution)}"
        )
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not -math.inf < low < high < math.inf:
        raise LightningMMError(
            f"{where}: expected numbers with min below max, got min {shown(low)} and max {shown(high)}"
        )
    if distribution == "int_uniform" and not whole:
        raise LightningMMError(f"{where}: int_uniform needs whole numbers, got min {low} and max {high}")
    if distribution == "log_uniform_values" and low <= 0:
        raise LightningMMError(f"{where}: log_uniform_values needs a min above 0, got {low}")
    if distribution != "int_uniform":
        low, high = float(low), float(high)
    return Parameter(name, low=low, high=high, distribution=str(distribution))


def plain(value: Any) -> Any:
    """A number for text such as ``1e-3``, which YAML does not read as one; everything else as it is.

    Example:
        >>> plain("1e-3"), plain("adam")
        (0.001, 'adam')
    """
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
