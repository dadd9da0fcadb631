"""Errors that tell a user what was expected, what came, and the way out.

The command line prints these as one message without a traceback; everything else is a defect of ours and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class LightningMMError(ValueError):
    """A mistake in a config, a call or the data that the user can mend; the message says how."""


class UsageError(LightningMMError):
    """A mistake in the command or a config file, found before anything ran; exit code 2."""


class NotApplicableError(LightningMMError):
    """A method does not apply to a network, through nobody's mistake; a study skips it and says why."""


class DataNotFoundError(LightningMMError, FileNotFoundError):
    """A file or folder of a data set is not where it was sought; the message names the place and how to set it."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class IncompleteDataError(DataNotFoundError):
    """Some samples of a data set lack what they need; the message is that of the first, and says how many there are.

    Attributes:
        problems: What is wrong with each of these samples.
        opened: The data set without them, so that a check can go on.
    """

    problems: tuple[str, ...] = ()
    opened: object = None

    @classmethod
    def of(cls, problems: Sequence[str], opened: object) -> IncompleteDataError:
        """The error of problems, of which equal ones are one."""
        distinct = tuple(dict.fromkeys(problems))
        more = f" ({len(distinct) - 1} more samples lack files)" if len(distinct) > 1 else ""
        error = cls(distinct[0] + more)
        error.problems, error.opened = distinct, opened
        return error
