"""Adapters and bases as artifacts of Weights & Biases: files, a manifest, and which base an adapter belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lightning_mm.files import sha256

MANIFEST = "manifest.json"
"""File of every artifact: what it is, and the hashes of its files."""


@dataclass(frozen=True)
class BaseFiles:
    """A trained base.

    Args:
        fingerprint: Of its weights, as adapters name it.
        facts: What else the manifest says: network, parameters, study, seed.
        checkpoint: Its file. The manifest has name, size and hash; the weights go only with ``upload``.
        upload: Whether the weights are uploaded, too.
    """

    fingerprint: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    upload: bool = False

    @property
    def name(self) -> str:
        """Name of the artifact: equal weights have equal names."""
        return f"base-{clean(self.fingerprint)[:16]}"

    def manifest(self) -> dict[str, Any]:
        """The content of its manifest."""
        files = {} if self.checkpoint is None else {self.checkpoint.name: _facts(self.checkpoint)}
        return {"kind": "base", "fingerprint": self.fingerprint, **self.facts, "files": files}

    def artifact(self) -> Any:
        """A new artifact; the server takes equal content for the same version."""
        files = [self.checkpoint] if self.checkpoint is not None and self.upload else []
        return _artifact(self.name, "base", self.manifest(), files)


@dataclass(frozen=True)
class AdapterFiles:
    """A saved adapter: the folder with its weights and config.

    Args:
        name: Name of the artifact; characters that W&B refuses become ``-``.
        folder: As :meth:`lightning_mm.adapters.Adapter.save` writes it.
        base: The base that it belongs to, if known.
        facts: What else the manifest says: method, seed, kind, basis.
    """

    name: str
    folder: Path
    base: BaseFiles | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """The content of its manifest."""
        files = {path.name: _facts(path) for path in self._files()}
        base = None if self.base is None else {"artifact": self.base.name, "fingerprint": self.base.fingerprint}
        return {"kind": "adapter", **self.facts, "base": base, "files": files}

    def artifact(self) -> Any:
        """A new artifact; the server takes equal content for the same version."""
        return _artifact(clean(self.name), "adapter", self.manifest(), self._files())

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith("."))


def clean(name: str) -> str:
    """A name that artifacts and tags may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:120]


def declare_base(run: Any, base: BaseFiles) -> None:
    """Say that a run used a base: the lineage of what it logs.

    An offline run cannot ask for an artifact; it keeps the base's manifest and declares the use when it is synced.
    """
    artifact = base.artifact()
    if not run.offline:
        run.use_artifact(artifact)
        return
    log = getattr(run, "_log_artifact", None)  # wandb 0.31 has no public call for it
    if log is not None:
        log(artifact, is_user_created=True, use_after_commit=True)


def _artifact(name: str, kind: str, manifest: Mapping[str, Any], files: list[Path]) -> Any:
    import wandb

    short = {key: value for key, value in manifest.items() if key != "files"}
    artifact = wandb.Artifact(name, kind, metadata=short)
    with artifact.new_file(MANIFEST, encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1, sort_keys=True, default=str))
    for path in files:
        artifact.add_file(str(path), name=path.name, policy="immutable")
    return artifact


def _facts(path: Path) -> dict[str, Any]:
    state = path.stat()
    return {"bytes": state.st_size, "sha256": _hash(path, state.st_size, state.st_mtime_ns)}


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, changed: int) -> str:
    """Hash a file; a checkpoint is asked for by many runs."""
    return sha256(path)
