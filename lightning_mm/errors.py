"""Errors that tell a user what was expected, what came, and the way out.

The command line prints these as one message without a traceback; everything else is a defect of ours and keeps its
traceback.
"""


class LightningMMError(ValueError):
    """A mistake in a config, a call or the data that the user can mend; the message says how."""


class DataNotFoundError(LightningMMError, FileNotFoundError):
    """A file or folder of a data set is not where it was sought; the message names the place and how to set it."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
