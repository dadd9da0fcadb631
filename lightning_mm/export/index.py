"""``export.json``: the programs of an export, their files, and their measured differences from the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.export.leaves import AVAILABLE, Leaf, dtype_of, names_in
from lightning_mm.modalities import Modalities

INDEX = "export.json"
FORMAT = "lightning_mm export 1"
ANY = "any"
"""The name of the program for all combinations."""


@dataclass(frozen=True)
class ProgramFile:
    """A program on disk.

    Args:
        sha256: File name to hash; the first file is the program, ONNX may keep its weights in a second one.
        difference: The largest measured difference from the eager network.
    """

    sha256: dict[str, str]
    difference: float

    @property
    def name(self) -> str:
        return next(iter(self.sha256))


@dataclass(frozen=True)
class Index:
    """The contents of ``export.json``.

    Args:
        modalities: Names in order, the columns of ``available``.
        leaves: The tensors of their inputs.
        sizes: Sizes of the named axes in the example, used for placeholders.
        form: The form of the outputs, see :func:`~lightning_mm.export.leaves.form_of`.
        dtypes: Name of an output to its dtype.
        programs: Combination, or ``"any"``, to format to file.
        tolerance: The largest difference allowed.
        not_folded: Why there are no programs of single combinations, if they are missing.
        about: Network, fingerprint, adapter, fill and versions.
    """

    modalities: Modalities
    leaves: list[Leaf]
    sizes: dict[str, int]
    form: Any
    dtypes: dict[str, str]
    programs: dict[str, dict[str, ProgramFile]]
    tolerance: float
    not_folded: str | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def names(self, program: str) -> list[str]:
        """Return the names of the inputs of a program, in order."""
        if program == ANY:
            return [*(leaf.name for leaf in self.leaves), AVAILABLE]
        present = self.modalities.parse(program)
        return [leaf.name for leaf in self.leaves if leaf.modality in present]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        return names_in(self.form)

    def files(self) -> list[str]:
        """Return the names of all files but the index."""
        return [file for formats in self.programs.values() for one in formats.values() for file in one.sha256]

    def largest_difference(self) -> float:
        """Return the largest difference of all programs."""
        return max(one.difference for formats in self.programs.values() for one in formats.values())

    def to_json(self) -> str:
        programs = {
            name: {
                "inputs": self.names(name),
                "files": {format_: {"file": one.name, **asdict(one)} for format_, one in formats.items()},
            }
            for name, formats in self.programs.items()
        }
        mask = {"name": AVAILABLE, "shape": ["batch", len(self.modalities)], "dtype": "bool"}
        state = {
            "format": FORMAT,
            "modalities": list(self.modalities),
            "inputs": {
                name: [leaf.to_dict() for leaf in self.leaves if leaf.modality == name] for name in self.modalities
            },
            AVAILABLE: mask,
            "sizes": self.sizes,
            "outputs": [{"name": name, "dtype": self.dtypes[name]} for name in self.outputs],
            "output_form": self.form,
            "programs": programs,
            "tolerance": self.tolerance,
            "not_folded": self.not_folded,
            **self.about,
        }
        return json.dumps(state, indent=2) + "\n"

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Index:
        leaves = [Leaf.from_dict(name, leaf) for name, of_name in state["inputs"].items() for leaf in of_name]
        programs = {
            name: {
                format_: ProgramFile(dict(one["sha256"]), float(one["difference"]))
                for format_, one in program["files"].items()
            }
            for name, program in state["programs"].items()
        }
        dtypes = {output["name"]: output["dtype"] for output in state["outputs"]}
        form = state["output_form"]
        if names_in(form) != list(dtypes) or not all(dtype_of(dtype) for dtype in dtypes.values()):
            raise KeyError("outputs")
        about = {key: state[key] for key in ("network", "fingerprint", "adapter", "fill", "versions") if key in state}
        return cls(
            Modalities(state["modalities"]), leaves, dict(state["sizes"]), form, dtypes, programs,
            float(state["tolerance"]), state["not_folded"], about,
        )  # fmt: skip


def read_index(folder: str | Path) -> Index:
    """Read the index of an export.

    Raises:
        DataNotFoundError: If it is missing.
        LightningMMError: If it is damaged or has another version.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise DataNotFoundError(
            f"no export in {folder}: {INDEX} is missing; `export_adapted` and `lightning-mm export` write it"
        )
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise LightningMMError(
                f"{path} has format {state['format']!r}, this version reads {FORMAT!r}; export again"
            )
        return Index.from_dict(state)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise LightningMMError(f"{path} is damaged ({type(error).__name__}: {error}); export again") from error
