"""The fields of ``wandb_runs.json`` and ``wandb_run.json``: which runs of Weights & Biases hold a study, or a fit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightning_mm.schemas.base import Count, Schema, Sha256

RunId = Annotated[str, Field(pattern=r"^[^:;,#?/'\\]{1,128}$")]


class FitRunState(Schema):
    """The run of a fit, and how far it has got.

    ``step`` is the last step that W&B was given; ``ahead`` says how far W&B's own count of lines is ahead of it.
    """

    id: RunId
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    url: str | None = None
    key: str
    step: Annotated[int, Field(ge=-1)] = -1
    ahead: Count = 0
    finished: bool = False


class RunState(Schema):
    """One run; ``others`` is the hash of figures that depend on other methods."""

    id: RunId
    digest: Sha256
    others: Sha256 | None = None
    state: Literal["open", "finished"]
    mode: str | None = None
    url: str | None = None


class LedgerState(Schema):
    """All of it."""

    study_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8,32}$")]
    runs: dict[str, RunState] = Field(default_factory=dict)
