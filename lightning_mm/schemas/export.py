"""The fields of ``export.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lightning_mm.schemas.base import Positive, Schema, Sha256

FileName = Annotated[str, Field(pattern=r"^[\w+][\w+.,@ -]*$", max_length=255)]
"""A file in the folder itself: no separators, no drive, no ``..``."""
NonNegative = Annotated[float, Field(ge=0)]


class LeafState(Schema):
    """A tensor of the input of a modality."""

    name: str
    path: list[str | int]
    shape: list[str | int]
    dtype: str

    @model_validator(mode="after")
    def _sizes_are_sizes(self) -> LeafState:
        if not self.shape or self.shape[0] != "batch" or any(isinstance(one, int) and one < 0 for one in self.shape):
            raise ValueError("a shape of sizes and names of sizes, the first of them 'batch'")
        return self


class MaskState(Schema):
    """The input ``available``."""

    name: Literal["available"]
    shape: list[str | int]
    dtype: Literal["bool"]


class OutputState(Schema):
    """An output."""

    name: str
    dtype: str


class FileState(Schema):
    """A program on disk."""

    file: FileName
    sha256: Annotated[dict[FileName, Sha256], Field(min_length=1)]
    difference: NonNegative

    @model_validator(mode="after")
    def _first_is_the_program(self) -> FileState:
        if self.file != next(iter(self.sha256)):
            raise ValueError(f"{self.file!r} first among the hashed files")
        return self


class ProgramState(Schema):
    """A program in some formats."""

    inputs: list[str]
    files: dict[Literal["torch", "onnx"], FileState]


class IndexState(Schema):
    """All of it."""

    format: str
    modalities: list[str]
    inputs: dict[str, list[LeafState]]
    available: MaskState
    sizes: dict[str, Positive]
    outputs: list[OutputState]
    output_form: Any
    programs: dict[str, ProgramState]
    tolerance: NonNegative
    not_folded: str | None
    network: str
    fingerprint: str
    adapter: dict[str, Any] | None
    fill: str | None
    versions: dict[str, str]

    @model_validator(mode="after")
    def _sizes_are_known(self) -> IndexState:
        if list(self.inputs) != self.modalities:
            raise ValueError(f"inputs of the modalities {self.modalities}, in this order")
        named = {size for leaves in self.inputs.values() for leaf in leaves for size in leaf.shape}
        unknown = [size for size in named if isinstance(size, str) and size not in self.sizes]
        if unknown:
            raise ValueError(f"a size of {unknown[0]!r} in sizes")
        return self
