"""Reading arrays: what comes back is what was asked for, and everything else is told with the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_mm.data.readers.arrays import BOOLEANS, INTEGERS, NUMBERS, STRINGS, read_npz
from lightning_mm.errors import DataNotFoundError, LightningMMError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.npz"
    np.savez(path, whole=np.arange(3, dtype=np.uint8), real=np.ones((2, 2)), flag=np.array(True), text=np.array(["a"]))
    return path


def test_arrays_come_back_as_they_were_written(path: Path) -> None:
    arrays = read_npz(path, {"whole": (INTEGERS, 1), "real": (NUMBERS, 2), "flag": (BOOLEANS, 0), "text": (STRINGS, 1)})
    assert list(arrays) == ["whole", "real", "flag", "text"]
    assert arrays["whole"].dtype == np.uint8
    assert arrays["whole"].tolist() == [0, 1, 2]
    assert arrays["real"].tolist() == [[1, 1], [1, 1]]
    assert (arrays["flag"].item(), arrays["text"].tolist()) == (True, ["a"])
    assert list(read_npz(path, {"whole": (NUMBERS, 1)})) == ["whole"]


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("real", (INTEGERS, 2), r"real to hold integers in 2 dimensions, got float64 of shape \(2, 2\)"),
        ("real", (NUMBERS, 1), r"real to hold integers or floats in 1 dimensions, got float64 of shape \(2, 2\)"),
        ("whole", (STRINGS, 1), r"whole to hold strings in 1 dimensions, got uint8 of shape \(3,\)"),
        ("flag", (INTEGERS, 0), r"flag to hold integers in 0 dimensions, got bool of shape \(\)"),
        ("text", (BOOLEANS + NUMBERS, 1), r"text to hold booleans or integers or floats in 1 dimensions, got <U1"),
    ],
)
def test_another_kind_or_rank_is_refused(path: Path, name: str, form: tuple[str, int], message: str) -> None:
    with pytest.raises(LightningMMError, match=rf"{path}: expected {message}.*; copy it again from the source"):
        read_npz(path, {"whole": (INTEGERS, 1), name: form})


def test_what_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(
        LightningMMError, match=r"lacks the arrays \['more'\]; expected \['real', 'more'\], got \['flag'"
    ):
        read_npz(path, {"real": (STRINGS, 7), "more": (NUMBERS, 1)})
    with pytest.raises(DataNotFoundError, match=r"none\.npz is not there; copy it from the source"):
        read_npz(path.with_name("none.npz"), {})


def test_a_file_that_may_not_be_read_is_not_damaged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        read_npz(path, {"real": (NUMBERS, 2)})
