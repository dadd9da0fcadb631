"""Traces, writes and checks the programs of an export.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_mm.errors import LightningMMError
from lightning_mm.export.checks import MOST_MASKS, Case, cases, largest_difference
from lightning_mm.export.formats import format_of
from lightning_mm.export.index import ANY, ProgramFile
from lightning_mm.export.inputs import CallInputs
from lightning_mm.export.leaves import AVAILABLE, BATCH
from lightning_mm.export.programs import CombinationProgram, FixedRows, MixedProgram, Source
from lightning_mm.files import sha256, writing

TRACED = 3
"""The batch size of the traced call; torch.export would take one for a constant."""


class Exporting:
    """Writes and checks the programs of one export.

    Args:
        source: The eager network.
        inputs: The inputs.
        formats: Names of the formats to write.
        outputs: Names of the outputs.
        tolerance: The largest difference allowed.
        seed: Seed of the data of the checks.
        folder: Where the files are written.
    """

    def __init__(
        self,
        source: Source,
        inputs: CallInputs,
        formats: list[str],
        outputs: list[str],
        tolerance: float,
        seed: int,
        folder: Path,
    ) -> None:
        self.source, self.inputs, self.formats, self.outputs = source, inputs, formats, outputs
        self.tolerance, self.seed, self.folder = tolerance, seed, folder

    def combinations(
        self, chosen: Sequence[str], required: bool
    ) -> tuple[dict[str, dict[str, ProgramFile]], str | None]:
        """Write the programs of single combinations; return them, or none and the reason."""
        programs = {}
        for combination in chosen:
            try:
                folded = self.source.fold(combination)
            except LightningMMError as error:
                if required:
                    raise
                return {}, str(error)
            present = self.source.modalities.parse(combination)
            try:
                module = CombinationProgram(folded, self.inputs, present)
            except LightningMMError:  # the network reads an encoder's weights itself: keep the encoder
                module = CombinationProgram(self.source.fold(combination), self.inputs, present, constants=False)
            program = self._trace(combination, module, module.names)
            programs[combination] = self._files(combination, program, module.names)
        return programs, None

    def mixed(self) -> dict[str, ProgramFile]:
        """Write the program for all combinations."""
        module = MixedProgram(self.source, self.inputs)
        fill = self.source.fill
        with self.source.filled_by(None if fill is None else FixedRows(fill, self.inputs)):
            program = self._trace(ANY, module, [*module.names, AVAILABLE])
        return self._files(ANY, program, [*module.names, AVAILABLE])

    def _trace(self, name: str, module: nn.Module, names: list[str]) -> torch.export.ExportedProgram:
        sizes = {called: max(size, 2) for called, size in self.inputs.sizes.items()} | {BATCH: TRACED}
        modalities = self.source.modalities
        tensors = self.inputs.draw(sizes, torch.Generator().manual_seed(self.seed + 1))
        tensors[AVAILABLE] = modalities.masks(modalities.sampled(MOST_MASKS))[
            torch.arange(TRACED) % (2 ** len(modalities) - 1)
        ]
        # The batch may have any size; other sizes may have to be, say, multiples of eight, which tracing finds out.
        dims: dict[str, Any] = dict.fromkeys(sizes, torch.export.Dim.DYNAMIC) | {BATCH: torch.export.Dim(BATCH)}
        axes: dict[str, dict[int, Any]] = {
            leaf.name: {axis: dims[size] for axis, size in enumerate(leaf.shape) if isinstance(size, str)}
            for leaf in self.inputs.leaves
        }
        axes[AVAILABLE] = {0: dims[BATCH]}
        call, shapes = tuple(tensors[each] for each in names), (tuple(axes[each] for each in names),)
        try:
            with quiet(), torch.no_grad():
                return torch.export.export(module.eval(), call, dynamic_shapes=shapes, strict=False)
        except LightningMMError:
            raise
        except Exception as error:
            raise self._failed("torch.export", name, error) from error

    def _files(self, name: str, program: torch.export.ExportedProgram, names: list[str]) -> dict[str, ProgramFile]:
        expected = cases(name, self.source, self.inputs, TRACED, self.seed)
        return {each: self._file(each, name, program, names, expected) for each in self.formats}

    def _file(
        self,
        format_name: str,
        name: str,
        program: torch.export.ExportedProgram,
        names: list[str],
        expected: list[Case],
    ) -> ProgramFile:
        form = format_of(format_name)
        path = self.folder / f"{name}{form.suffix}"
        try:
            with quiet(), torch.no_grad(), writing(self.folder.parent / path.name):
                files = form.write(program, path, names, self.outputs)
                opened = form.open(path, names)
        except (LightningMMError, OSError):  # of the disk, not of the network
            raise
        except Exception as error:
            raise self._failed(format_name, name, error) from error
        found = largest_difference(opened, names, expected, path.name)
        if not found <= self.tolerance:
            raise LightningMMError(
                f"{path.name} differs from the eager network by {found:.3g} on random inputs, and the tolerance is "
                f"{self.tolerance:g}; nothing was written. Give a larger tolerance if that is small enough for you, or "
                f"leave out the format {format_name!r}"
            )
        return ProgramFile({file.name: sha256(file) for file in files}, found)

    def _failed(self, what: str, name: str, error: Exception) -> LightningMMError:
        text = str(error)
        lines = [line.strip().split(" For more information")[0] for line in text.splitlines() if line.strip()]
        reason = " ".join(lines[:2])[:500] or "no message"
        hint = "what it computes must not branch on the values of tensors"
        if "specialized" in text:
            hint = "it makes a constant of a size that may change: write x.shape[0] for len(x), and no int() of a size"
        return LightningMMError(
            f"{what} cannot export {type(self.source.network).__name__} for {name!r} ({type(error).__name__}: "
            f"{reason}); {hint}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Disable fused attention, which ONNX lacks, and the tracer's warnings about our hooks."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
