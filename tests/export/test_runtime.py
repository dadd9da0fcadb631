"""`Runtime` on an export of a small network: what it runs, and what it says of inputs and files that do not fit."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_mm.adapters import Adapted
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.export import Runtime
from tests.support.export_networks import PAIR, eager, late, late_inputs, pair, pair_inputs, write_exports
from tests.support.type_checker import unchecked

pytestmark = pytest.mark.slow

BACKENDS = ["torch", "onnx"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all of them, see `write_exports`; not to be changed."""
    folder = tmp_path_factory.mktemp("exports")
    with unchecked():
        write_exports(folder)
    return folder


@pytest.fixture
def exported(exports: Path) -> Path:
    """The export of `pair`; not to be changed."""
    return exports / "pair"


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.fixture(scope="module")
def adapted() -> Adapted:
    return pair()


def same(found: Any, expected: Any) -> None:
    """Outputs of `pair`, the named ones and those in a tuple."""
    assert list(found) == ["logits", "parts"]
    assert found["parts"][1] is None
    torch.testing.assert_close(found["logits"], expected["logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["parts"][0], expected["parts"][0], rtol=1e-5, atol=1e-5)


def without(folder: Path, program: str) -> None:
    """Take a program out of the index, as if it had not been exported."""
    path = folder / "export.json"
    state = json.loads(path.read_text())
    del state["programs"][program]
    path.write_text(json.dumps(state))


def test_index(exported: Path) -> None:
    index = json.loads((exported / "export.json").read_text())
    assert index["modalities"] == ["rgb", "steps"]
    assert list(index["programs"]) == ["rgb", "steps", "rgb+steps", "any"]
    assert index["programs"]["steps"]["inputs"] == ["steps.values", "steps.length"]
    assert index["programs"]["any"]["inputs"] == ["rgb", "steps.values", "steps.length", "available"]
    assert index["inputs"]["steps"] == [
        {"name": "steps.values", "path": ["values"], "shape": ["batch", "time", 2], "dtype": "float32"},
        {"name": "steps.length", "path": ["length"], "shape": ["batch"], "dtype": "int64"},
    ]
    assert index["available"] == {"name": "available", "shape": ["batch", 2], "dtype": "bool"}
    assert [output["name"] for output in index["outputs"]] == ["output.logits", "output.parts.0"]
    assert index["sizes"] == {"batch": 4, "time": 5}
    assert index["fingerprint"]
    assert index["adapter"]["kind"]["class_path"].endswith("SSF")
    assert set(index["versions"]) == {"lightning_mm", "python", "torch", "onnx", "onnxscript", "onnxruntime"}
    files = {one["file"]: one["difference"] for p in index["programs"].values() for one in p["files"].values()}
    expected = {f"{name}.{end}" for name in index["programs"] for end in ("pt2", "onnx")}
    assert set(files) == expected
    assert all(0 <= difference <= index["tolerance"] == 1e-4 for difference in files.values())
    assert {path.name for path in exported.iterdir()} == expected | {"export.json"}


@every_backend
@pytest.mark.parametrize(("batch", "time"), [(1, 8), (6, 1)])
def test_each_combination_takes_what_is_there(
    exported: Path, adapted: Adapted, backend: str, batch: int, time: int
) -> None:
    runtime, inputs = Runtime(exported, backend), pair_inputs(batch, seed=3, time=time)
    for combination in PAIR.combinations():
        present = PAIR.parse(combination)
        mask = PAIR.mask(combination).expand(batch, -1)
        expected = eager(adapted, inputs, mask)
        same(runtime({name: inputs[name] for name in present}), expected)
        same(runtime({name: inputs[name] if name in present else None for name in PAIR}), expected)
        same(runtime(inputs, available=mask), expected)
    assert set(runtime._opened) == set(PAIR.combinations()), "the folded programs, not the one for all"


@every_backend
def test_eight_threads_share_a_runtime(exported: Path, adapted: Adapted, backend: str) -> None:
    runtime = Runtime(exported, backend)
    masks = [PAIR.mask(name).expand(4, -1) for name in PAIR.combinations()] + [PAIR.masks()[torch.tensor([0, 1, 2, 0])]]
    expected = [eager(adapted, pair_inputs(4, seed=number), masks[number % 4]) for number in range(8)]

    def work(number: int) -> None:
        for _ in range(5):
            same(runtime(pair_inputs(4, seed=number), available=masks[number % 4]), expected[number])

    with ThreadPoolExecutor(8) as pool, unchecked():
        assert list(pool.map(work, range(8))) == [None] * 8
    assert pickle.loads(pickle.dumps(runtime)).programs == runtime.programs


def mixed() -> tuple[dict[str, Any], dict[str, Any], Tensor]:
    """Inputs, the same with NaN where they are absent, and a mask of all combinations."""
    inputs = pair_inputs(5, seed=4)
    available = PAIR.masks()[torch.arange(5) % 3]
    image = torch.where(available[:, :1], inputs["rgb"], torch.nan)
    values = torch.where(available[:, 1].view(-1, 1, 1), inputs["steps"]["values"], torch.nan)
    return inputs, {"rgb": image, "steps": {**inputs["steps"], "values": values}}, available


@every_backend
def test_rows_of_a_batch_may_differ(exported: Path, adapted: Adapted, backend: str) -> None:
    inputs, poisoned, available = mixed()
    runtime = Runtime(exported, backend)
    same(runtime(poisoned, available=available), eager(adapted, inputs, available))
    assert list(runtime._opened) == ["any"]


@every_backend
def test_without_the_program_for_all_rows_are_grouped(copy: Path, adapted: Adapted, backend: str) -> None:
    without(copy, "any")
    inputs, poisoned, available = mixed()
    runtime = Runtime(copy, backend)
    same(runtime(poisoned, available=available), eager(adapted, inputs, available))
    assert set(runtime._opened) == set(PAIR.combinations())


@every_backend
def test_without_the_program_of_a_combination_that_for_all_runs(copy: Path, adapted: Adapted, backend: str) -> None:
    without(copy, "rgb")
    inputs, runtime = pair_inputs(3, seed=5), Runtime(copy, backend)
    same(runtime({"rgb": inputs["rgb"]}), eager(adapted, inputs, PAIR.mask("rgb").expand(3, -1)))
    assert list(runtime._opened) == ["any"]
    without(copy, "any")
    with pytest.raises(LightningMMError, match=r"no program for 'rgb', only for \['steps', 'rgb\+steps'\]"):
        Runtime(copy, backend)({"rgb": inputs["rgb"]})


def test_arrays_are_taken_too(exported: Path, adapted: Adapted) -> None:
    inputs = pair_inputs(3)
    arrays = {"rgb": inputs["rgb"].numpy(), "steps": {key: value.numpy() for key, value in inputs["steps"].items()}}
    available = torch.tensor([[True, True], [True, False], [False, True]])
    found = Runtime(exported)(arrays, available=available.numpy())
    same(found, eager(adapted, inputs, available))


@pytest.mark.wrong_types
def test_inputs_that_do_not_fit(exported: Path) -> None:
    runtime, inputs = Runtime(exported), pair_inputs(3)
    rgb, steps = inputs["rgb"], inputs["steps"]
    full = torch.ones(3, 2, dtype=torch.bool)
    for given, available, text in (
        ({"depth": rgb}, None, r"unknown modality 'depth'; the export has \['rgb', 'steps'\]"),
        ({}, None, r"at least one of \['rgb', 'steps'\], got none"),
        ({"rgb": None}, full, "at least one of"),
        ({"rgb": rgb[:, :2]}, None, r"'rgb': expected shape \['batch', 3\], got \[3, 2\]"),
        ({"rgb": rgb[0]}, None, r"'rgb': expected shape \['batch', 3\], got \[3\]"),
        ({"rgb": rgb[:0]}, None, r"got \[0, 3\]"),
        ({"rgb": rgb.double()}, None, "'rgb': expected float32, got float64"),
        ({"rgb": "red"}, None, "'rgb': expected a tensor or array .* got a str"),
        ({"steps": steps["values"]}, None, "'steps.values': no 'values' in Tensor"),
        ({"steps": {"values": steps["values"]}}, None, r"'steps.length': no 'length' in \['values'\]"),
        ({"rgb": rgb[:2], "steps": steps}, None, "'rgb' and 'steps.values' must agree in 'batch', got 2 and 3"),
        (inputs, full[:2], r"available: expected Bool\[3, 2\], .* got torch.bool \(2, 2\)"),
        (inputs, full.float(), "got torch.float32"),
        ({"rgb": rgb}, full, r"available says that 'steps' is there, but the inputs hold only \['rgb'\]"),
        (inputs, full & (torch.arange(3) != 1)[:, None], "row 1 has no modality at all"),
    ):
        with pytest.raises(LightningMMError, match=text):
            runtime(given, available=available)
    with pytest.raises(LightningMMError, match=r"format must be one of \['torch', 'onnx'\], got 'tensorrt'"):
        Runtime(exported, "tensorrt")


@every_backend
def test_files_that_are_gone_or_damaged(copy: Path, backend: str) -> None:
    inputs, end = pair_inputs(2), "pt2" if backend == "torch" else "onnx"
    content = bytearray((copy / f"rgb.{end}").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / f"rgb.{end}").write_bytes(content)
    (copy / f"steps.{end}").unlink()
    runtime = Runtime(copy, backend)
    runtime(inputs)  # files are looked at when they are needed
    with pytest.raises(LightningMMError, match=rf"rgb\.{end} is damaged or of another export"):
        runtime({"rgb": inputs["rgb"]})
    with pytest.raises(DataNotFoundError, match=rf"lacks steps\.{end}, which its index names"):
        runtime({"steps": inputs["steps"]})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no export in .*: export.json is missing"),
        ("{", "export.json is damaged"),
        ("[]", "export.json is damaged"),
        ('{"format": "lightning_mm export 9"}', "format 'lightning_mm export 9', this version reads"),
        ('{"format": "lightning_mm export 1", "inputs": {}}', "export.json is damaged .*programs"),
    ],
)
def test_an_index_that_is_none(content: str | None, text: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "export.json").write_text(content)
    with pytest.raises(LightningMMError, match=text):
        Runtime(tmp_path)


def test_a_backend_that_was_not_exported(copy: Path) -> None:
    path = copy / "export.json"
    state = json.loads(path.read_text())
    for program in state["programs"].values():
        del program["files"]["onnx"]
    path.write_text(json.dumps(state))
    with pytest.raises(LightningMMError, match=r"has no onnx programs, only \['torch'\]"):
        Runtime(copy, "onnx")


def test_onnxruntime_is_needed_for_onnx_only(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert Runtime(exported).programs
    with pytest.raises(LightningMMError, match=r"needs onnxruntime.*pip install 'lightning-mm\[export\]'"):
        Runtime(exported, "onnx")


def test_weights_of_large_onnx_programs_lie_beside(exports: Path, adapted: Adapted, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exports / "beside", tmp_path / "copy"))
    assert {path.name for path in folder.iterdir()} == {"rgb.onnx", "rgb.onnx.data", "export.json"}
    inputs = pair_inputs(3, seed=1)
    same(Runtime(folder, "onnx")({"rgb": inputs["rgb"]}), eager(adapted, inputs, PAIR.mask("rgb").expand(3, -1)))
    (folder / "rgb.onnx.data").unlink()
    with pytest.raises(LightningMMError, match=r"lacks rgb\.onnx\.data"):
        Runtime(folder, "onnx")({"rgb": inputs["rgb"]})


def test_a_network_without_an_adapter(exports: Path) -> None:
    runtime, inputs, network = Runtime(exports / "plain"), late_inputs(3, seed=1), late(mask_absent=True).eval()
    assert runtime.index.about["adapter"] is None
    available = torch.tensor([[True, False], [False, True], [True, True]])
    with torch.no_grad():
        alone = network(inputs, available=available[:1].expand(3, -1))
        mixed = network(inputs, available=available)
    torch.testing.assert_close(runtime({"image": inputs["image"]}), alone)
    given = {
        "image": inputs["image"].clone(),
        "motion": {**inputs["motion"], "values": inputs["motion"]["values"].clone()},
    }
    given["image"][1] = given["motion"]["values"][0] = torch.nan
    torch.testing.assert_close(runtime(given, available=available), mixed)
    assert list(runtime._opened) == ["image", "any"]
