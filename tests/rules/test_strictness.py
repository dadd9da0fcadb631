"""Holds what is easily lost: light imports, no need for the tools of developers, types that the tests check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from tests.support.repository import REPOSITORY
from tests.support.type_checker import ALL_OF_THE_FIRST, ONE_IN, checked
from tests.support.type_hook import NO_TYPE_HOOK, TYPE_HOOK, CheckingLoader

MODULES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in sorted((REPOSITORY / "lightning_mm").rglob("*.py"))
    if path.stem not in ("__init__", "__main__")
]
IMPORT_NAMES = {
    "pytest": ["pytest", "_pytest"],
    "pytest-xdist": ["xdist", "execnet"],
    "beartype": ["beartype"],
    "hypothesis": ["hypothesis"],
    "nbclient": ["nbclient", "nbformat", "jupyter_client", "jupyter_core"],
    "ipykernel": ["ipykernel", "IPython", "debugpy"],
    "ruff": ["ruff"],
    "mypy": ["mypy", "mypyc"],
    "types-PyYAML": [],
    # torchmetrics asks pip's records for it and then imports it: it cannot be hidden, only not be installed
    "transformers": [],
    "peft": ["peft"],
    "nibabel": ["nibabel"],
    "onnx": ["onnx"],
    "onnxscript": ["onnxscript", "onnx_ir"],
    "onnxruntime": ["onnxruntime"],
    "xlsxwriter": ["xlsxwriter"],
    "pandas": ["pandas"],
    "scikit-learn": ["sklearn"],
    "wandb-workspaces": ["wandb_workspaces"],
    "mkdocs": ["mkdocs"],
    "mkdocs-material": ["material"],
    "mkdocstrings": ["mkdocstrings", "griffe"],
}
"""What each requirement of the extras is imported as, and what else comes with it that code could lean on."""


COMPILES = (
    "torch.compile(",
    "torch.export.",
    "torch.jit.",
    "torch.onnx.",
    "check_compiles(",
    "export_adapted(",
    "export_network(",
)
"""What traces the checks of types, in a test or in a helper that it calls."""


def unmarked(text: str) -> list[str]:
    """Names of the tests in the text of a file that compile and are not marked so."""
    if not any(call in text for call in COMPILES):
        return []
    lines = text.splitlines()
    tests = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return [
        test.name
        for test in tests
        if test.name.startswith("test")
        and any(call in line for call in COMPILES for line in lines[test.lineno - 1 : test.end_lineno])
        and not any("mark.compiled" in ast.unparse(decorator) for decorator in test.decorator_list)
    ]


def python(code: str, *args: str) -> str:
    """What a fresh interpreter without the type hook prints."""
    run = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def brought_by(statement: str, after: str = "") -> set[str]:
    """Modules, but those of the standard library, that a statement adds to those of another."""
    code = f"import sys\n{after}\nbefore = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    names = python(code).splitlines()[-1].split()
    return {name for name in names if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("_")}


def tops(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


def test_the_package_and_the_help_import_nothing_but_python() -> None:
    assert tops(brought_by("import lightning_mm")) == {"lightning_mm"}
    assert tops(brought_by("from lightning_mm.cli import main; main(['--help']); main(['--version'])")) == {
        "lightning_mm"
    }


def test_pure_torch_rooms_need_torch_numpy_and_safetensors_only() -> None:
    allowed = "import torch, numpy, safetensors.torch, jaxtyping"
    rooms = "import lightning_mm.modalities, lightning_mm.missing, lightning_mm.adapters, lightning_mm.testing"
    rooms += ", lightning_mm.export"
    assert tops(brought_by(rooms, after=allowed)) == {"lightning_mm"}


def test_adapters_import_no_part_of_torch_that_torch_does_not() -> None:
    """Its compiler and exporters take longer to import than torch itself."""
    brought = brought_by("import lightning_mm.adapters", after="import torch")
    assert {name for name in brought if name.startswith("torch")} == set()


def test_extras_are_imported_in_functions_only() -> None:
    extras = {name for names in IMPORT_NAMES.values() for name in names} | {"transformers"}
    wrong = []
    for path in (REPOSITORY / "lightning_mm").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong += [f"{path.name}: {name}" for name in names if name.split(".")[0] in extras]
    assert not wrong


@pytest.mark.slow
def test_every_module_is_imported_without_the_extras() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    named = {re.split(r"[^\w.-]", requirement)[0] for requirement in extras}
    assert named == set(IMPORT_NAMES), "say in IMPORT_NAMES how the requirements of the extras are imported"
    code = """
import importlib, sys
absent = set(sys.argv[1].split())
class Hiding:  # torch asks whether some are there and takes no for an answer
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in absent else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Hiding, sys.meta_path)
for name in sys.argv[2:]:
    importlib.import_module(name)
assert not absent & set(sys.modules)
"""
    python(code, " ".join(name for names in IMPORT_NAMES.values() for name in names), *MODULES)


@pytest.mark.skipif(not TYPE_HOOK, reason=f"{NO_TYPE_HOOK} is set")
def test_calls_are_checked() -> None:
    def often() -> None:
        for _ in range(ONE_IN):  # other tests may have called it often
            Modalities(["rgb", "depth"]).code(torch.ones(3, 2))  # no Bool

    with pytest.raises(BeartypeCallHintViolation, match="available"):
        often()


def test_a_function_that_is_called_often_is_checked_now_and_then() -> None:
    @checked
    def double(value: float) -> float:
        return 2 * value

    for _ in range(ALL_OF_THE_FIRST):
        with pytest.raises(BeartypeCallHintViolation):
            double("a")  # type: ignore[arg-type]
    found = 0
    for _ in range(10 * ONE_IN):
        try:
            double("a")  # type: ignore[arg-type]
        except BeartypeCallHintViolation:
            found += 1
    assert found == 10


def test_sizes_of_one_call_agree() -> None:
    @checked
    def weigh(values: Float[Tensor, "sample feature"], weights: Float[Tensor, " feature"]) -> Float[Tensor, " sample"]:
        return values @ weights if len(weights) > 1 else values

    assert weigh(torch.ones(3, 2), torch.ones(2)).shape == (3,)
    assert weigh(torch.ones(4, 5), torch.ones(5)).shape == (4,), "another call has sizes of its own"
    for values, weights, text in (
        (torch.ones(3, 2), torch.ones(4), "weights"),
        (torch.ones(3, 2).long(), torch.ones(2), "values"),
        (torch.ones(3, 1), torch.ones(1), "return"),
    ):
        with pytest.raises(BeartypeCallHintViolation, match=text):
            weigh(values, weights)


def test_a_size_may_be_an_attribute() -> None:
    class Head:
        width = 3

        @checked
        def forward(self, values: Float[Tensor, "sample {self.width}"]) -> Float[Tensor, "{self.width} sample"]:
            return values.T

    assert Head().forward(torch.ones(2, 3)).shape == (3, 2)
    with pytest.raises(BeartypeCallHintViolation, match="values"):
        Head().forward(torch.ones(2, 4))


def test_dataclasses_are_checked_and_an_int_is_a_float() -> None:
    @checked
    @dataclass(frozen=True)
    class Point:
        x: float
        names: list[str]

    assert Point(1, ["a"]).x == 1
    with pytest.raises(BeartypeCallHintViolation, match="names"):
        Point(1.0, [2])  # type: ignore[list-item]


@pytest.mark.skipif(not TYPE_HOOK, reason=f"{NO_TYPE_HOOK} is set")
def test_every_module_is_checked() -> None:
    def loader(name: str) -> type:
        folder = REPOSITORY.joinpath(*name.split(".")[:-1])
        specs = (finder.find_spec(name, [str(folder)]) for finder in sys.meta_path)
        return type(next(spec for spec in specs if spec).loader)

    assert not {name for name in MODULES if loader(name) is not CheckingLoader}


def test_users_run_without_checks() -> None:
    code = """
import sys
from lightning_mm.adapters import Adapted
print(hasattr(Adapted.forward, "__wrapped__"), "beartype" in sys.modules)
"""
    assert python(code).split() == ["False", "False"]


@pytest.mark.parametrize(
    "mark", [pytest.param(mark, marks=getattr(pytest.mark, mark)) for mark in ("compiled", "wrong_types")]
)
def test_tests_with_these_marks_run_without_checks(mark: str) -> None:
    with pytest.raises(LightningMMError, match="non-empty string"):
        Modalities([3])  # type: ignore[list-item]


def test_what_is_compiled_is_marked() -> None:
    paths = [path for path in (REPOSITORY / "tests").rglob("test_*.py") if path != Path(__file__)]
    found = {path.name: names for path in paths if (names := unmarked(path.read_text(encoding="utf-8")))}
    assert not found, "mark these tests with @pytest.mark.compiled"


@pytest.mark.parametrize("call", COMPILES)
def test_a_test_that_compiles_unmarked_is_seen(call: str) -> None:
    code = f"def test_it() -> None:\n    '{call}'\n"
    assert unmarked(code) == ["test_it"]
    assert unmarked(f"@pytest.mark.compiled\n{code}") == []
    assert unmarked(code.replace("test_it", "helper")) == []
