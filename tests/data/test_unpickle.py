"""Reading pickles: plain data of every age comes back whole, and nothing that could run code is called."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_mm.data.readers.unpickle import read_pickle
from lightning_mm.errors import DataNotFoundError, LightningMMError

PLAIN: dict[str, Any] = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "bytes": np.array([[b"video", b"1"]], dtype=object),
    "words": np.array(["a", "\u00e4"]),
    "scalar": np.float64(0.5),
    "ordered": collections.OrderedDict(a=[1, 2.5, None, True]),
    "containers": ({1, 2}, frozenset({3}), b"\xff", bytearray(b"x"), 2j, "text"),
}


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and np.array_equal(found, expected)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol_comes_back(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    found = read_pickle(path)
    assert found.keys() == PLAIN.keys()
    assert all(equal(found[key], value) for key, value in PLAIN.items())


@pytest.mark.parametrize(("written", "other"), [("numpy._core", "numpy.core"), ("numpy.core", "numpy._core")])
def test_names_of_both_generations_of_numpy(tmp_path: Path, written: str, other: str) -> None:
    path, array = tmp_path / "data.pkl", np.arange(3.0)
    content = pickle.dumps({"array": array, "scalar": array[1]}, 2)
    path.write_bytes(content.replace(written.encode() + b".", other.encode() + b"."))
    found = read_pickle(path)
    assert np.array_equal(found["array"], array)
    assert found["scalar"] == 1


def test_a_file_of_python_2(tmp_path: Path) -> None:
    """Written there as ``pickle.dumps({'audio': numpy.array([-1.5, 258.0]), u'id': 'caf\\xe9'}, 2)``."""
    raw = np.array([-1.5, 258.0]).tobytes()
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731  # SHORT_BINSTRING, which Python 3 never writes
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01K\x02\x85" + b"cnumpy\ndtype\n" + text(b"f8") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + b"\x89" + text(raw) + b"tb"
    )
    content = b"\x80\x02}(" + text(b"audio") + array + b"X\x02\x00\x00\x00id" + text(b"caf\xe9") + b"u."
    path = tmp_path / "old.pkl"
    path.write_bytes(content)
    found = read_pickle(path)
    assert found["audio"].tolist() == [-1.5, 258.0]
    assert found["id"] == "caf\u00e9"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "touch ran"), r"(posix|nt)\.system"),
        ((subprocess.check_output, ["touch", "ran"]), r"(subprocess|commands)\.check_output"),
        ((builtins.eval, "open('ran', 'w')"), r"builtins\.eval"),
        ((builtins.exec, "open('ran', 'w')"), r"builtins\.exec"),
        ((builtins.open, "ran", "w"), r"(builtins|io|_io)\.open"),
        ((getattr, "text", "upper"), r"builtins\.getattr"),
        ((np.load, "ran"), r"numpy\.load"),
        ((np.save, "ran", np.zeros(1)), r"numpy\.save"),
        ((Path, "ran"), r"pathlib\S*\.\w*Path"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_by_name_and_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, ...], name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps({"train": {"text": [Calls(*call)]}}, protocol))
    name = name.replace("builtins", "(builtins|__builtin__)")
    with pytest.raises(LightningMMError, match=rf"data\.pkl is no plain data: it asks for {name}, and unpickling"):
        read_pickle(path)
    assert os.listdir(tmp_path) == ["data.pkl"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
            r"numpy\.ndarray\.tofile",
        ),  # an attribute of what is allowed
        (b"c_codecs\nencode\n(Vx\nVzlib\ntR.", "the encoding 'zlib'"),
        (b"c_codecs\ndecode\n.", r"_codecs\.decode"),
        (b"Pelsewhere\n.", "the persistent object 'elsewhere'"),
    ],
)
def test_side_doors_are_closed(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    with pytest.raises(LightningMMError, match=f"asks for {message}"):
        read_pickle(path)


def test_objects_in_an_array_are_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(np.array([Calls(os.getcwd)], dtype=object)))
    with pytest.raises(LightningMMError, match=r"asks for (posix|nt)\.getcwd"):
        read_pickle(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_damaged_file_is_named(tmp_path: Path, protocol: int) -> None:
    path, whole = tmp_path / "data.pkl", pickle.dumps(PLAIN, protocol)
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(LightningMMError, match=r"data\.pkl is damaged \(.*copy it again from the source"):
            read_pickle(path)
    for content in (b"not a pickle", b"version https://git-lfs", whole[::-1]):
        path.write_bytes(content)
        with pytest.raises(LightningMMError, match=r"data\.pkl is (damaged|no plain data)"):
            read_pickle(path)
    with pytest.raises(DataNotFoundError, match=r"nowhere\.pkl is not there"):
        read_pickle(tmp_path / "nowhere.pkl")
