"""The fields of ``wandb_runs.json``: which runs of Weights & Biases hold a study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightning_mm.schemas.base import Schema, Sha256


class RunState(Schema):
    """One run."""

    id: Annotated[str, Field(pattern=r"^[^:;,#?/'\\]{1,128}$")]
    digest: Sha256
    state: Literal["open", "finished"]
    mode: str | None = None
    url: str | None = None


class LedgerState(Schema):
    """All of it."""

    study_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8,32}$")]
    runs: dict[str, RunState] = Field(default_factory=dict)
