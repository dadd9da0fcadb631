"""JSON files with a schema: whatever is wrong with one, the message names the file, the field, and what came.

Every file of ours has one class of :class:`Schema`, which is checked when the file is read. A file may be damaged,
edited, or written by somebody else; nothing in it is used before it was checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightning_mm.errors import LightningMMError, shown

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class Schema(BaseModel):
    """The fields of a file: exact types, finite numbers, no unknown keys.

    A field with a default may be missing from files of older releases.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Schema)


def check(schema: type[S], content: object, where: object, way_out: str) -> S:
    """Check the content of a file, and return it as an object.

    Args:
        schema: Its fields.
        content: As it was read.
        where: The file, for the message.
        way_out: What the message advises.

    Raises:
        LightningMMError: If a field is missing, unknown, or of another type or range; the message names it.
    """
    if not isinstance(content, Mapping):
        raise LightningMMError(f"{where} is damaged (expected keys and values, got {shown(content)}); {way_out}")
    try:
        return schema.model_validate(dict(content))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = problems[0]
        field = _place(first)
        if first["type"] == "missing":
            what = f"it lacks the keys {[_place(one) for one in problems if one['type'] == 'missing'][:20]}"
        elif first["type"] == "extra_forbidden":
            what = f"unknown key {field!r} (a newer version of lightning_mm may have written it)"
        else:
            message = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
            what = f"{field}: expected {message[:200]}, got {shown(first['input'])}"
        raise LightningMMError(f"{where} is damaged ({what}); {way_out}") from None


def _place(problem: Mapping[str, Any]) -> str:
    return ".".join(map(str, problem["loc"])) or "its content"
