"""Runs an export: picks the program for the available modalities.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.export.formats import Opened, format_of, require
from lightning_mm.export.index import ANY, ProgramFile, place_of, read_index
from lightning_mm.export.leaves import AVAILABLE, Leaf, completed, formed, name_of
from lightning_mm.files import sha256
from lightning_mm.missing.fills import Nest


class Runtime:
    """The programs of an export, opened when they are first needed; runs on the CPU, in any number of threads.

    Args:
        folder: A folder written by ``export_adapted`` or ``lightning-mm export``.
        backend: ``torch`` or ``onnx`` (which needs onnxruntime).
        trust: Whether to open torch programs that hold more than a graph of torch's own operators and tensors, such as
            custom operators or compiled parts. Opening such a file can run any code: only for files of people whose
            code you would run. ONNX programs run no code of the file.

    Raises:
        DataNotFoundError: If there is no export, or one of its files is missing when needed.
        LightningMMError: If it holds no programs of the backend, a file is damaged or could run code, or a package is
            missing; when called, if the inputs do not fit.

    Example:
        >>> runtime = Runtime("exported", backend="onnx")  # doctest: +SKIP
        >>> runtime({"rgb": rgb})  # the folded program of this combination  # doctest: +SKIP
        >>> runtime({"rgb": rgb, "depth": depth}, available=mask)  # rows may differ  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, backend: str = "torch", trust: bool = False) -> None:
        self.folder, self.backend, self.trust = Path(folder), backend, trust
        self.format = format_of(backend)
        self.index = read_index(folder)
        self.modalities = self.index.modalities
        require(self.format.to_run, f"Runtime with backend={backend!r}")
        self.programs = [name for name, formats in self.index.programs.items() if backend in formats]
        """Combinations that have a program, and ``"any"``."""
        if not self.programs:
            have = sorted({one for formats in self.index.programs.values() for one in formats})
            raise LightningMMError(f"the export in {folder} has no {backend} programs, only {have}; export them too")
        self._opened: dict[str, Opened] = {}
        self._opening = Lock()

    def __reduce__(self) -> tuple[type[Runtime], tuple[Path, str]]:
        return Runtime, (self.folder, self.backend)  # programs are opened again where they are needed

    def __call__(self, inputs: Mapping[str, Nest | None], available: Tensor | NDArray[np.bool_] | None = None) -> Nest:
        """Run one batch; outputs have the form of the network's.

        Args:
            inputs: Modality to its input as the network takes it, tensors or arrays, batch first; a modality that is
                absent from the whole batch may be left out or None.
            available: ``Bool[B, M]``, rows may differ; by default all given inputs are available.
        """
        given = self._read(inputs)
        size = next((len(tensor) for tensor in given.values()), 0)
        have = [name for name in self.modalities if any(leaf.name in given for leaf in self._leaves(name))]
        if not have:
            raise LightningMMError(f"expected an input of at least one of {list(self.modalities)}, got none")
        if available is None:
            whole = self.modalities.mask("+".join(have)).expand(size, -1)
        else:
            whole = self._check(available, size, have)
        return formed(self.index.form, self._run(given, whole))

    def _run(self, given: dict[str, Tensor], available: Bool[Tensor, "batch modality"]) -> dict[str, Tensor]:
        rows, of_row = available.unique(dim=0, return_inverse=True)
        names = [self.modalities.name(row) for row in rows]
        if len(names) == 1 and names[0] in self.programs:
            return self._program(names[0], given)
        if ANY in self.programs:
            return self._program(ANY, {**completed(self.index.leaves, given, self.index.sizes), AVAILABLE: available})
        lacking = [name for name in names if name not in self.programs]
        if lacking:
            raise LightningMMError(
                f"the export in {self.folder} has no program for {lacking[0]!r}, only for {self.programs}; export it "
                "too, or the program for all combinations (mixed)"
            )
        return self._grouped(given, names, of_row)

    def _grouped(
        self, given: dict[str, Tensor], names: Sequence[str], of_row: Int[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Run the rows of each combination separately, without a program for all combinations."""
        together: dict[str, Tensor] = {}
        for number, name in enumerate(names):
            mine = (of_row == number).nonzero().flatten()
            for output, tensor in self._program(name, {key: one[mine] for key, one in given.items()}).items():
                whole = together.setdefault(output, tensor.new_empty(len(of_row), *tensor.shape[1:]))
                if tensor.shape != (len(mine), *whole.shape[1:]):
                    raise LightningMMError(
                        f"{output!r} has shape {tuple(tensor.shape)} for {len(mine)} samples of {name!r}, so a batch "
                        "of mixed combinations cannot be put together; export the program for all combinations (mixed)"
                    )
                whole[mine] = tensor
        return together

    def _program(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if name not in self._opened:
            with self._opening:
                if name not in self._opened:
                    self._opened[name] = self._open(name, self.index.programs[name][self.backend])
        outputs = self._opened[name]([tensors[each] for each in self.index.names(name)])
        return dict(zip(self.index.outputs, outputs))

    def _open(self, name: str, file: ProgramFile) -> Opened:
        for each, expected in file.sha256.items():
            path = place_of(self.folder, each)
            if sha256(path) != expected:
                raise LightningMMError(f"{path} is damaged or of another export than its index; export again")
        path = self.folder / file.name
        try:
            problem = None if self.trust else self.format.unsafe(path)
            opened = None if problem is not None else self.format.open(path, self.index.names(name))
        except LightningMMError:
            raise
        except Exception as error:  # any byte of a program that others wrote may be wrong
            raise LightningMMError(
                f"{path} cannot be opened ({type(error).__name__}: {str(error)[:200]}); export again"
            ) from error
        if opened is None:
            raise LightningMMError(
                f"{path} is more than plain data: it holds {problem}, and opening it could run any code. Use its ONNX "
                "program (backend='onnx'), or, only if you trust who wrote it, "
                f"Runtime({str(self.folder)!r}, trust=True)"
            )
        return opened

    # reading inputs -------------------------------------------------------------------------------------------------

    def _leaves(self, modality: str) -> list[Leaf]:
        return [leaf for leaf in self.index.leaves if leaf.modality == modality]

    def _read(self, inputs: Mapping[str, Nest | None]) -> dict[str, Tensor]:
        unknown = [name for name in inputs if name not in self.modalities]
        if unknown:
            raise LightningMMError(f"unknown modality {unknown[0]!r}; the export has {list(self.modalities)}")
        given: dict[str, Tensor] = {}
        sizes: dict[str, tuple[int, str]] = {}
        for name, value in inputs.items():
            if value is None:
                continue
            for leaf in self._leaves(name):
                given[leaf.name] = _tensor_at(leaf, value)
                _check_leaf(leaf, given[leaf.name], sizes)
        return given

    def _check(self, available: Any, size: int, have: Sequence[str]) -> Bool[Tensor, "batch modality"]:
        available = torch.as_tensor(available).detach().cpu()
        expected = (size, len(self.modalities))
        if available.shape != expected or available.dtype != torch.bool:
            raise LightningMMError(
                f"available: expected Bool{list(expected)}, a row for each sample and a column for each of "
                f"{list(self.modalities)}, got {available.dtype} {tuple(available.shape)}"
            )
        for column, name in enumerate(self.modalities):
            if name not in have and available[:, column].any():
                raise LightningMMError(f"available says that {name!r} is there, but the inputs hold only {list(have)}")
        if not available.any(1).all():
            row = int((~available.any(1)).nonzero()[0])
            raise LightningMMError(f"available: row {row} has no modality at all; leave such samples out")
        return available


def _tensor_at(leaf: Leaf, value: Nest) -> Tensor:
    """Find the tensor of a leaf in the input of its modality."""
    for key in leaf.path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            has = list(value) if isinstance(value, Mapping) else type(value).__name__
            raise LightningMMError(
                f"input {leaf.name!r}: no {key!r} in {has}; give what the network was given"
            ) from None
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise LightningMMError(
            f"input {leaf.name!r}: expected a tensor or array {list(leaf.shape)}, got a {type(value).__name__}"
        )
    return value.detach().cpu()


def _check_leaf(leaf: Leaf, tensor: Tensor, sizes: dict[str, tuple[int, str]]) -> None:
    """Refuse another dtype or shape; ``sizes`` collects the sizes of named axes, with the input they come from."""
    if tensor.dtype != leaf.dtype:
        raise LightningMMError(f"input {leaf.name!r}: expected {name_of(leaf.dtype)}, got {name_of(tensor.dtype)}")
    expected = tuple(leaf.shape)
    fits = tensor.ndim == len(expected) and all(
        size >= 1 if isinstance(wanted, str) else size == wanted for size, wanted in zip(tensor.shape, expected)
    )
    if not fits:
        raise LightningMMError(f"input {leaf.name!r}: expected shape {list(expected)}, got {list(tensor.shape)}")
    for axis, called in enumerate(expected):
        if isinstance(called, str):
            size, other = sizes.setdefault(called, (tensor.shape[axis], leaf.name))
            if size != tensor.shape[axis]:
                raise LightningMMError(
                    f"inputs {other!r} and {leaf.name!r} must agree in {called!r}, got {size} and {tensor.shape[axis]}"
                )
