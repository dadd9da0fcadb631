"""Errors that tell a user what was expected, what came, and the way out.

The command line prints these as one message without a traceback; everything else is a defect of ours and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral


class LightningMMError(ValueError):
    """A mistake in a config, a call or the data that the user can fix; the message says how."""


class UsageError(LightningMMError):
    """A mistake in the command or a config file, found before anything ran; exit code 2."""


class NotApplicableError(LightningMMError):
    """A method does not apply to a network, through nobody's mistake; a study skips it and says why."""


class DivergedError(LightningMMError):
    """A loss, a gradient or weights are not finite while the data are; another setting, as of the rate, may help."""


class DataNotFoundError(LightningMMError, FileNotFoundError):
    """A file or folder of a data set was not found; the message names the path and how to set it."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class IncompleteDataError(DataNotFoundError):
    """Some samples of a data set lack files; the message is that of the first one and counts the others.

    Attributes:
        problems: What is wrong with each of these samples.
        opened: The data set without them, so that a check can continue.
    """

    problems: tuple[str, ...] = ()
    opened: object = None

    @classmethod
    def of(cls, problems: Sequence[str], opened: object) -> IncompleteDataError:
        """Make the error of some problems; equal ones count once."""
        distinct = tuple(dict.fromkeys(problems))
        more = f" ({len(distinct) - 1} more samples lack files)" if len(distinct) > 1 else ""
        error = cls(distinct[0] + more)
        error.problems, error.opened = distinct, opened
        return error


class Stopped(BaseException):
    """A signal asked the process to end; its number is ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


LONGEST = 80
"""Characters of a value that a message shows."""


def shown(value: object) -> str:
    """Write a value as Python does, and at most the first ``LONGEST`` characters of it.

    Example:
        >>> shown([0, "a"]), len(shown("a" * 10_000))
        ("[0, 'a']", 84)
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or a list that holds itself
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise a LightningMMError unless ``value`` is one of the choices.

    Args:
        name: The setting, with its class where that helps: ``"Ombria: split"``.
        value: What was given.
        choices: What is allowed.

    Example:
        >>> check_choice("split", "dev", ["train", "val"])
        Traceback (most recent call last):
        lightning_mm.errors.LightningMMError: split must be one of ['train', 'val'], got 'dev'
    """
    allowed = list(choices)
    if value not in allowed:
        raise LightningMMError(f"{name} must be one of {allowed}, got {value!r}")


def check_whole(name: str, value: object, minimum: int) -> None:
    """Raise a LightningMMError unless ``value`` is a whole number of at least ``minimum``.

    Example:
        >>> check_whole("LoRA: rank", 0, 1)
        Traceback (most recent call last):
        lightning_mm.errors.LightningMMError: LoRA: rank must be a whole number of at least 1, got 0
    """
    if not isinstance(value, Integral) or int(value) < minimum:
        raise LightningMMError(f"{name} must be a whole number of at least {minimum}, got {value!r}")


def check_fraction(name: str, value: float, below_one: bool = False) -> None:
    """Raise a LightningMMError unless ``value`` lies between 0 and 1; with ``below_one``, 1 itself is refused.

    Example:
        >>> check_fraction("dropout", 1.0, below_one=True)
        Traceback (most recent call last):
        lightning_mm.errors.LightningMMError: dropout must be at least 0 and below 1, got 1.0
    """
    if not 0 <= value <= 1 or (below_one and value == 1):
        raise LightningMMError(
            f"{name} must be {'at least 0 and below 1' if below_one else 'between 0 and 1'}, got {value}"
        )
