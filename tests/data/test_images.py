"""Reading pictures, label images and arrays: every form comes back as it was written; damage is told with the path."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_mm.data.readers.arrays import read_array
from lightning_mm.data.readers.images import (
    decode,
    read_image,
    read_labels,
    resize_image,
    resize_labels,
    scale,
    to_tensor,
)
from lightning_mm.data.readers.ntu_rgbd_files import decode_frame
from lightning_mm.data.readers.photos import read_photo
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.image_files import _chunk, png16, save

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_comes_back_bit_for_bit(tmp_path: Path, channels: int, dtype: type) -> None:
    values = RNG.integers(0, np.iinfo(dtype).max + 1, (11, 7, channels)).astype(dtype)
    path = save(tmp_path / "one.png", values[..., 0] if channels == 1 else values)
    read = read_image(path, (channels,))
    assert read.dtype == dtype
    assert np.array_equal(read, values)


READERS = pytest.mark.parametrize(
    "read",
    [
        lambda path: read_image(path, (3,)),
        lambda path: read_labels(path, 9),
        lambda path: read_photo(path),
        lambda path: decode_frame(path.parent, "rgb", 0),
        lambda path: decode(path, ("L",), "8-bit gray"),
    ],
    ids=["images", "labels", "photos", "ntu_rgbd", "decode"],
)


@READERS
def test_a_size_that_cannot_be_is_damage(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "000001.jpg"
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 10**5, 10**5, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9))))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts))
    with pytest.raises(
        LightningMMError, match=rf"{path} is damaged \(Image size \(10000000000 pixels\).*copy it again"
    ):
        read(path)


@READERS
def test_what_may_not_be_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any]
) -> None:
    path = save(tmp_path / "000001.jpg", np.zeros((4, 4, 3)))

    def refuse(*args: Any, **settings: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        read(path)


def test_16_bits_are_not_8_bits_times_256(tmp_path: Path) -> None:
    values = np.array([[[1, 256, 65535]]], dtype=np.uint16)
    assert read_image(save(tmp_path / "one.png", values), (3,)).tolist() == [[[1, 256, 65535]]]


def test_another_number_of_channels_or_form(tmp_path: Path) -> None:
    gray = save(tmp_path / "gray.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(LightningMMError, match=rf"{gray} should be RGB, 8 or 16 bits, got mode L"):
        read_image(gray, (3,))
    Image.new("1", (4, 4)).save(tmp_path / "bits.png")
    with pytest.raises(LightningMMError, match=r"should be gray or RGB, 8 or 16 bits, got mode 1"):
        read_image(tmp_path / "bits.png", (1, 3))


@pytest.mark.parametrize("keep", [0, 20, 60, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_cut_off_png_is_named(tmp_path: Path, keep: float, dtype: type) -> None:
    path = save(tmp_path / "one.png", RNG.integers(0, 255, (16, 16, 3)).astype(dtype))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(LightningMMError, match=rf"{path} is damaged \(.*\); copy it again"):
        read_image(path, (3,))
    with pytest.raises(LightningMMError, match=rf"{path} is damaged"):
        read_labels(path, 9)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for name, read in [("one.png", lambda path: read_image(path, (3,))), ("one.npy", read_array)]:
        with pytest.raises(DataNotFoundError, match=rf"{tmp_path / name} is not there; copy it"):
            read(tmp_path / name)


def test_labels_of_every_form(tmp_path: Path) -> None:
    stored = np.array([[0, 1], [40, 255]], dtype=np.uint8)
    palette = Image.fromarray(stored)
    palette.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    assert palette.mode == "P"
    palette.save(tmp_path / "palette.png")
    paths = [save(tmp_path / "8.png", stored), save(tmp_path / "16.png", stored.astype(np.uint16))]
    for path in [*paths, tmp_path / "palette.png"]:
        assert read_labels(path, 40, first=1, void=(0, 255)).tolist() == [[255, 0], [39, 255]]
        assert read_labels(path, 41).tolist() == stored.tolist()


def test_labels_out_of_range_and_of_several_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "label.png", np.array([[9, 200, 3], [255, 9, 0]], dtype=np.uint8))
    message = rf"label out of range in {path}: expected 0 to 8, and 255 for no class, got \[9, 200\]"
    with pytest.raises(LightningMMError, match=message):
        read_labels(path, 9)
    with pytest.raises(LightningMMError, match=r"expected 1 to 8, and 0 or 255 for no class, got \[9, 200\]"):
        read_labels(path, 8, first=1, void=(0, 255))
    colours = save(tmp_path / "colours.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(LightningMMError, match=rf"{colours} should be a label image of one channel, got mode RGB"):
        read_labels(colours, 9)


def test_arrays(tmp_path: Path) -> None:
    values = RNG.normal(size=(4, 6))
    read = read_array(save(tmp_path / "one.npy", values))
    assert read.dtype == np.float32
    assert np.array_equal(read, values.astype(np.float32))
    for name, wrong, message in [
        ("rank", np.zeros((2, 3, 1)), r"expected numbers \[H, W\], got float64 of shape \(2, 3, 1\)"),
        ("kind", np.array([["a"]]), r"expected numbers \[H, W\], got <U1"),
        ("pickle", np.array([[{}]], dtype=object), "is damaged"),
        ("nan", np.array([[1.0, np.nan, np.inf]]), "holds 2 values that are not finite"),
    ]:
        path = tmp_path / f"{name}.npy"
        np.save(path, wrong)
        with pytest.raises(LightningMMError, match=message) as caught:
            read_array(path)
        assert str(path) in str(caught.value)
    whole = (tmp_path / "one.npy").read_bytes()
    for keep in (0, 5, 70, len(whole) - 8):
        path = tmp_path / "cut.npy"
        path.write_bytes(whole[:keep])
        with pytest.raises(LightningMMError, match=rf"{path} is damaged"):
            read_array(path)
    np.savez(tmp_path / "many.npz", a=values)
    with pytest.raises(LightningMMError, match="an archive, not one array"):
        read_array(tmp_path / "many.npz")


def test_what_may_not_be_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Image, "open", refuse)
    for read in (read_array, lambda path: read_image(path, (3,))):
        with pytest.raises(PermissionError):
            read(tmp_path / "one.npy")


def test_scaling_and_tensors() -> None:
    assert scale(np.array([0, 255], np.uint8)).tolist() == [0, 1]
    assert scale(np.array([0, 65535], np.uint16)).tolist() == [0, 1]
    assert scale(np.array([-2.5, 3.0])).tolist() == [-2.5, 3.0]
    gray = np.full((2, 3, 1), 51, np.uint8)
    assert to_tensor(gray).shape == (3, 2, 3)
    assert np.allclose(to_tensor(gray), 0.2)
    mean = (np.array([0.485, 0.456, 0.406]) * np.ones((2, 3, 3))).astype(np.float32)
    assert to_tensor(mean, normalise=True).abs().max() < 1e-6
    assert np.allclose(to_tensor(mean + np.float32(0.229), normalise=True)[0], 1.0, atol=1e-5)


def test_resizing_takes_the_area_mean_and_never_mixes_labels() -> None:
    values = RNG.integers(0, 65536, (8, 12, 3)).astype(np.uint16)
    mean = scale(values).reshape(4, 2, 6, 2, 3).mean((1, 3))
    assert np.allclose(resize_image(scale(values), (4, 6)), mean, atol=1e-6)
    assert resize_image(scale(values), (16, 24)).shape == (16, 24, 3)
    labels = RNG.integers(0, 9, (8, 12)).astype(np.uint8)
    assert np.array_equal(resize_labels(labels, (16, 24)), labels.repeat(2, 0).repeat(2, 1))
    assert set(np.unique(resize_labels(labels, (3, 5)))) <= set(np.unique(labels))


def test_the_png_of_the_tests_is_read_the_same_by_another_decoder(tmp_path: Path) -> None:
    """Pillow reads gray of 16 bits whole, and of RGB the high bytes: both agree with what was written."""
    values = RNG.integers(0, 65536, (9, 5, 3)).astype(np.uint16)
    (tmp_path / "gray.png").write_bytes(png16(values[..., 0]))
    with Image.open(tmp_path / "gray.png") as image:
        assert np.array_equal(np.asarray(image), values[..., 0])
    (tmp_path / "rgb.png").write_bytes(png16(values))
    with Image.open(tmp_path / "rgb.png") as image:
        assert np.array_equal(np.asarray(image), values >> 8)
    assert "cv2" not in sys.modules, "no decoder that is not a dependency"
