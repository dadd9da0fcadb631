"""What made a result: versions of packages, the commit of the working directory, and the data."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from lightning_mm.errors import LightningMMError

PACKAGES = ("lightning-mm", "torch", "lightning", "torchmetrics", "segmentation-models-pytorch", "numpy", "wandb")
STUDY = "LIGHTNING_MM_STUDY"
"""Environment variable: the study that a command belongs to."""
SHOWN = 12
"""Digits of a fingerprint that are shown."""


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that results depend on."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """The commit of the working directory, with ``-dirty`` if tracked files differ; ``None`` outside a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


@dataclass(frozen=True)
class DataFingerprint:
    """Digests of the samples of a swept split.

    Args:
        samples: SHA-256 over indices and targets of all samples, by index.
        observed: Modality to SHA-256 over which samples have it, by index. A network for some of the modalities has
            those only, so each has a digest of its own.
    """

    samples: str
    observed: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Twelve digits that stand for all of it, whatever the order of the modalities."""
        parts = [self.samples, *(f"{name}={digest}" for name, digest in sorted(self.observed.items()))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:SHOWN]

    def content(self) -> dict[str, Any]:
        """What a file holds."""
        return {"samples": self.samples, "observed": dict(self.observed)}

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> DataFingerprint | None:
        """Read what :meth:`content` made; ``None`` stays."""
        return None if content is None else cls(content["samples"], dict(content["observed"]))


def joined_fingerprint(fingerprints: Sequence[DataFingerprint | None]) -> DataFingerprint | None:
    """The fingerprint of sweeps that are put into one table; sweeps of older releases have none.

    Returns:
        That of all modalities, or ``None`` if one of the sweeps does not say on which data it was made.

    Raises:
        LightningMMError: If two of them are of other data.
    """
    known = [one for one in fingerprints if one is not None]
    observed: dict[str, str] = {}
    for one in known:
        if one.samples != known[0].samples:
            raise LightningMMError(
                "these sweeps are of different data: indices or labels of the samples differ (fingerprints "
                f"{known[0].text} and {one.text}); sweep all on the same copy of the data"
            )
        for name, digest in one.observed.items():
            if observed.setdefault(name, digest) != digest:
                raise LightningMMError(
                    f"these sweeps are of different data: other samples lack modality {name!r} (fingerprints "
                    f"{known[0].text} and {one.text}); sweep all with the same table of missing modalities"
                )
    return DataFingerprint(known[0].samples, observed) if known and len(known) == len(fingerprints) else None
