"""Writes and opens programs in two formats: ``torch.export`` (``.pt2``) and ONNX (``.onnx``)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.export import plain

Opened = Callable[[Sequence[Tensor]], list[Tensor]]
"""A program ready to run: tensors in the order of its inputs -> tensors in the order of its outputs."""

INSTALL = "pip install 'lightning-mm[export]'"
LARGEST_FILE = 1_900_000_000
"""Bytes of weights above which ONNX keeps them in a second file: protobuf ends at two gigabytes."""


@dataclass(frozen=True)
class Format:
    """A format: how its programs are written and opened.

    Args:
        suffix: Suffix of its files.
        to_write: Packages that writing and checking need besides torch.
        to_run: Packages that running needs besides torch.
        write: Takes program, path and the names of inputs and outputs; returns the files written.
        open: Takes a path and the names of the inputs.
        unsafe: Takes a path; says what in the file could run code when it is opened, or None.
    """

    suffix: str
    to_write: tuple[str, ...]
    to_run: tuple[str, ...]
    write: Callable[[torch.export.ExportedProgram, Path, Sequence[str], Sequence[str]], list[Path]]
    open: Callable[[Path, Sequence[str]], Opened]
    unsafe: Callable[[Path], str | None]


def require(packages: Iterable[str], what: str) -> dict[str, str]:
    """Return the versions of packages.

    Raises:
        LightningMMError: If one is not installed; the message says how to install it.
    """
    versions = {}
    for package in packages:
        try:
            versions[package] = str(import_module(package).__version__)
        except ImportError as error:
            raise LightningMMError(f"{what} needs {package}, which cannot be imported ({error}): {INSTALL}") from error
    return versions


def _write_torch(
    program: torch.export.ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> list[Path]:
    # Not into the file: the error of a full disk would be torch's own, which does not say so.
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())
    return [path]


def _open_torch(path: Path, inputs: Sequence[str]) -> Opened:
    module = torch.export.load(path).module()

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        try:
            with torch.no_grad():
                outputs = module(*tensors)
        except AssertionError as error:
            raise LightningMMError(f"{path.name} is not for inputs of these sizes: {error}") from error
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> list[Path]:
    weights = [*program.state_dict.values(), *program.constants.values()]
    two_files = sum(one.nbytes for one in weights if isinstance(one, Tensor)) > LARGEST_FILE
    made: Any = torch.onnx.export(
        program, (), dynamo=True, input_names=list(inputs), output_names=list(outputs), verbose=False
    )
    made.save(str(path), external_data=two_files)
    return [path, path.with_name(f"{path.name}.data")] if two_files else [path]


def _open_onnx(path: Path, inputs: Sequence[str]) -> Opened:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    needed = {one.name for one in session.get_inputs()}

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        given = {name: tensor for name, tensor in zip(inputs, tensors) if name in needed}
        arrays = {name: tensor.detach().contiguous().numpy() for name, tensor in given.items()}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return run


FORMATS = {
    "torch": Format(".pt2", (), (), _write_torch, _open_torch, plain.found_in),
    "onnx": Format(
        ".onnx", ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",), _write_onnx, _open_onnx, lambda path: None
    ),
}


def format_of(name: str) -> Format:
    """Look up a format by its name.

    Raises:
        LightningMMError: If there is no such format.
    """
    check_choice("format", name, FORMATS)
    return FORMATS[name]
