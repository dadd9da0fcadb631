"""What a planted fault is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A change of one place in the package that a test must notice.

    Args:
        name: Short and in words.
        consequence: What a user would suffer.
        file: The file that is changed, from the root of the repository.
        old: The lines to replace; they occur once in the file.
        new: The lines that replace them.
        caught_by: A quick test that fails with the fault and passes without it.
        before: The test that caught the same fault in the version of 20b60d7; empty if none did.
    """

    name: str
    consequence: str
    file: str
    old: str
    new: str
    caught_by: str
    before: str
