"""Pictures of predictions in the page: those of the sweep's folder, small, in the order of the table."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_mm.report import write_report
from lightning_mm.report.pictures import pictures
from lightning_mm.results import save
from tests.support.sweep_results import small_sweep


def draw(folder: Path, name: str, width: int = 40) -> bytes:
    path = folder / "pictures" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((30, width, 3), (0, 114, 178), np.uint8)).save(path)
    return path.read_bytes()


def test_pictures_are_found_by_name_and_made_small(tmp_path: Path) -> None:
    for name in (
        "confusion_rgb.png",
        "confusion_rgb+depth.png",
        "segmentation_m2.png",
        "confusion_thermal.png",
        "x.png",
    ):
        draw(tmp_path, name, width=2200 if "m2" in name else 40)
    (tmp_path / "pictures" / "values_rgb.png").write_bytes(b"no picture")
    found = pictures(tmp_path, small_sweep())
    assert [(one.kind, [picture.combination for picture in one.shown]) for one in found] == [
        ("segmentation", ["depth"]),
        ("confusion", ["rgb+depth", "rgb"]),
    ]
    wide = found[0].shown[0]
    assert (wide.place, wide.width, wide.height) == (1, 1100, 15)
    image = Image.open(io.BytesIO(base64.b64decode(wide.uri.removeprefix("data:image/png;base64,"))))
    assert image.size == (1100, 15)
    assert image.convert("RGB").getpixel((3, 3)) == (0, 114, 178)
    assert pictures(tmp_path / "nowhere", small_sweep()) == []


def test_too_many_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rgb", "depth", "rgb+depth"):
        draw(tmp_path, f"confusion_{name}.png")
    monkeypatch.setattr("lightning_mm.report.pictures.LARGEST", 10)
    (found,) = pictures(tmp_path, small_sweep())
    assert [picture.combination for picture in found.shown] == ["rgb+depth"], "the first one is always there"
    assert found.left_out == 2


def test_the_page_holds_them(tmp_path: Path) -> None:
    result = replace(small_sweep(), samples={}, bootstrap=None)
    save(result, tmp_path)
    text = write_report([tmp_path], tmp_path / "report.html")["html"].read_text(encoding="utf-8")
    assert "<img" not in text
    draw(tmp_path, "values_rgb+depth.png")
    text = write_report([tmp_path], tmp_path / "report.html")["html"].read_text(encoding="utf-8")
    assert text.count('<img src="data:image/png;base64,') == text.count("<img") == 1
    assert 'data-picture="2"' in text
    assert "Predicted against true values with rgb+depth" in text
