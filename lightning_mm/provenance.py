"""What made a result: versions of packages and the commit of the working directory."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

PACKAGES = ("lightning-mm", "torch", "lightning", "torchmetrics", "segmentation-models-pytorch", "numpy", "wandb")


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
