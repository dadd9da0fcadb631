"""Exports of somebody else: what could run code or leads out of the folder is refused, our own opens without a word."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mm.errors import LightningMMError
from lightning_mm.export import Runtime
from lightning_mm.export.index import read_index
from lightning_mm.export.plain import found_in
from lightning_mm.files import sha256

WRITTEN = Path(__file__).resolve().parent.parent / "files" / "written_by_20b60d7" / "export"
PROGRAM = WRITTEN / "torch" / "any.pt2"


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def rewritten(path: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> Path:
    """A copy of a program with other members."""
    with zipfile.ZipFile(PROGRAM) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in (more or {}).items():
            new.writestr(name, content)
    return path


def in_graph(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("model.json"):
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def same(name: str, content: bytes) -> bytes:
    return content


def test_what_an_export_writes_is_plain() -> None:
    for path in WRITTEN.rglob("*.pt2"):
        assert found_in(path) is None, path


def test_what_could_run_code_is_named(tmp_path: Path) -> None:
    place = tmp_path / "ran"
    harmful = pickle.dumps(Harmful(place))
    buffer = tmp_path / "harmful.pt"
    torch.save(Harmful(place), buffer)

    def pickled(name: str, content: bytes) -> bytes:
        return buffer.read_bytes() if name.endswith("sample_inputs/model.pt") else content

    def as_pickle(name: str, content: bytes) -> bytes:
        return content.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else content

    aten, size = "torch.ops.aten.relu.default", "Mul(Integer(2), Symbol('s89', positive=True, integer=True))"
    for change, more, expected in (
        (pickled, {}, "a pickle 'data/sample_inputs/model.pt' that asks for"),
        (as_pickle, {}, "an object 'weight_0'"),
        (
            same,
            {"any/data/constants/opaque_obj_0": harmful, "any/data/aotinductor/m/x.so": b"x"},
            "a file 'any/data/aot",
        ),
        (same, {"any/data/weights/../../x": b""}, "a file 'any/data/weights/../../x'"),
        (in_graph(aten, "torch.hub.load"), {}, "an operator 'torch.hub.load'"),
        (in_graph(aten, "torch.ops.aten.from_file"), {}, "an operator 'torch.ops.aten.from_file'"),
        (in_graph(aten, "torch.ops.mine.relu.default"), {}, "an operator 'torch.ops.mine"),
        (in_graph(aten, "_operator.attrgetter"), {}, "an operator '_operator.attrgetter'"),
        (in_graph(size, "__import__('os').system('true')"), {}, "a size"),
        (in_graph(size, "Symbol.__class__('s', (), {})"), {}, "a size"),
        (in_graph("L['tensors'][2].size()[0] == ", "print(1) or 1 == "), {}, "a guard"),
        (in_graph('\\"builtins.tuple\\"', '\\"mine.Tuple\\"'), {}, "a container 'mine.Tuple'"),
        (in_graph('"tensors_0"', '"x): print(1)\\\\n#"'), {}, "a name"),
    ):
        program = rewritten(tmp_path / "program.pt2", change, more)
        problem = found_in(program)
        assert problem is not None, expected
        assert problem.startswith(expected)
    assert not place.exists()


@pytest.mark.filterwarnings("ignore")
def test_an_export_with_code_needs_trust(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(WRITTEN / "torch", tmp_path / "export"))
    rewritten(folder / "any.pt2", in_graph("torch.ops.aten.relu.default", "torch.relu"))
    index = json.loads((folder / "export.json").read_text())
    index["programs"]["any"]["files"]["torch"]["sha256"]["any.pt2"] = sha256(folder / "any.pt2")
    (folder / "export.json").write_text(json.dumps(index))
    inputs = {"rgb": torch.zeros(2, 3, 6, 6), "steps": {"values": torch.zeros(2, 5, 2)}}
    available = torch.tensor([[True, False], [True, True]])
    with pytest.raises(
        LightningMMError, match=r"operator 'torch\.relu', and opening it could run any code.*trust=True"
    ):
        Runtime(folder)(inputs, available)


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (["programs", "any", "files", "torch", "file"], "../any.pt2", r"programs\.any\.files\.torch\.file: expected"),
        (["programs", "any", "files", "torch", "file"], "/etc/passwd", "file: expected"),
        (["programs", "any", "files", "torch", "sha256"], {"..": "0" * 64}, "sha256"),
        (["programs", "any", "files", "torch", "sha256", "any.pt2"], "0" * 63, "sha256.any.pt2: expected"),
        (["programs", "any", "files", "torch", "difference"], -1, "difference: expected greater than or equal to 0"),
        (
            ["programs", "any", "inputs"],
            ["rgb"],
            r"programs.any.inputs: expected \['rgb', 'steps.values', 'available'\]",
        ),
        (["sizes", "batch"], 0, "sizes.batch: expected greater than or equal to 1, got 0"),
        (["outputs", 0, "dtype"], "float33", "expected a dtype of torch such as 'float32', got 'float33'"),
        (["outputs", 0, "dtype"], "nn", "expected a dtype of torch"),
        (["output_form"], {"odd": 1}, "output_form: expected a form"),
        (["inputs", "rgb", 0, "shape"], [3], "a shape of sizes"),
        (["modalities"], ["rgb"], r"inputs of the modalities \['rgb'\]"),
        (["tolerance"], "small", "tolerance: expected a valid number, got 'small'"),
        (["not_folded"], 3, "not_folded: expected a valid string, got 3"),
        (["more"], 3, "unknown key 'more'"),
    ],
)
def test_each_field_of_an_index_is_checked(keys: list[Any], value: Any, expected: str, tmp_path: Path) -> None:
    state: Any = json.loads((WRITTEN / "torch" / "export.json").read_text())
    place = state
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (tmp_path / "export.json").write_text(json.dumps(state))
    with pytest.raises(LightningMMError, match=expected):
        read_index(tmp_path)


def test_links_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(WRITTEN / "torch", tmp_path / "export"))
    (folder / "rgb.pt2").rename(tmp_path / "rgb.pt2")
    (folder / "rgb.pt2").symlink_to(tmp_path / "rgb.pt2")
    with pytest.raises(LightningMMError, match=r"is a link to .*outside of the export; copy the file itself"):
        Runtime(folder)({"rgb": torch.zeros(1, 3, 6, 6)})
