"""The fields of ``sweep.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lightning_mm.modality_names import ModalityNames
from lightning_mm.schemas.base import Count, Positive, Schema, Sha256

Share = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(ge=0)]


class BootstrapState(Schema):
    """How intervals were made."""

    key: str
    level: Share


class DataFingerprintState(Schema):
    """Which samples were evaluated."""

    samples: Sha256
    observed: dict[str, Sha256]


class ShardState(Schema):
    """Which part of a sweep this is."""

    number: Positive
    of: Positive
    sweep: str
    cells: list[str]

    @model_validator(mode="after")
    def _is_a_part(self) -> ShardState:
        if self.number > self.of:
            raise ValueError(f"a number of at most {self.of}, the number of shards")
        return self


class SweepState(Schema):
    """All of it; older releases wrote less."""

    created: str | None = None
    modalities: list[str] = Field(default_factory=list)
    primary_metric: str | None = None
    directions: dict[str, Literal["max", "min"]] = Field(default_factory=dict)
    parameters: dict[str, dict[str, Count]] = Field(default_factory=dict)
    seconds: dict[str, Seconds | None] = Field(default_factory=dict)
    inference: dict[str, dict[str, Count]] = Field(default_factory=dict)
    inference_seconds: dict[str, Seconds] = Field(default_factory=dict)
    data_fingerprint: DataFingerprintState | None = None
    networks: dict[str, list[str]] = Field(default_factory=dict)
    shard: ShardState | None = None
    notes: list[str] = Field(default_factory=list)
    summary: dict[str, Any] = Field(default_factory=dict)
    bootstrap: BootstrapState | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)
    commit: str | None = None
    csv_crc32: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_are_names(self) -> SweepState:
        if self.modalities:
            ModalityNames(self.modalities)
        return self
