"""The fields of ``adapter_config.json``, and of the same description in a checkpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lightning_mm.schemas.base import Count, Positive, Schema, Sha256

Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class SettingsState(Schema):
    """A kind, basis or fill."""

    class_path: str
    init_args: dict[str, Any]


class LayoutState(Schema):
    """The axes of an output."""

    ndim: Positive
    batch_axis: Count
    channel_axis: Count
    order: Literal["plain", "sample_major", "step_major", "any"] = "plain"

    @model_validator(mode="after")
    def _axes_exist(self) -> LayoutState:
        if max(0 if self.order == "any" else self.batch_axis, self.channel_axis) >= self.ndim:
            raise ValueError(f"axes below {self.ndim}, the number of axes")
        if self.batch_axis == self.channel_axis:
            raise ValueError("different axes for samples and channels")
        return self


class SiteState(Schema):
    """An adapted layer."""

    name: str
    channels: Positive
    layouts: Annotated[list[LayoutState], Field(min_length=1)]
    foldable: bool
    details: dict[str, Any] = Field(default_factory=dict)
    left_alone: bool = False


class PathState(Schema):
    """Where the input of a modality is in a call."""

    position: Count | None
    name: str
    keys: list[str | int]


class AdapterConfig(Schema):
    """An adapter without its weights."""

    version: str
    kind: SettingsState
    basis: SettingsState
    fill: SettingsState | None
    modalities: list[str]
    rows: list[str]
    sites: list[SiteState]
    inputs: dict[str, PathState]
    encoders: dict[str, str] = Field(default_factory=dict)
    grouped: bool = False
    for_all: list[str] = Field(default_factory=list)
    deep_supervision: list[str] = Field(default_factory=list)
    base_fingerprint: Fingerprint
    placement: dict[str, Any] | None = None
    config_sha256: Sha256 | None = None
    weights_sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> AdapterConfig:
        names = [site.name for site in self.sites]
        if len(set(names)) < len(names):
            raise ValueError("distinct layers in sites")
        if list(self.inputs) != self.modalities:
            raise ValueError(f"inputs of the modalities {self.modalities}, in this order")
        if not set(self.encoders) <= set(self.modalities):
            raise ValueError(f"encoders of some of the modalities {self.modalities}")
        return self
