"""``export.json``: the programs of an export, their files, and their measured differences from the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_mm.errors import DataNotFoundError, LightningMMError, shown
from lightning_mm.export.leaves import AVAILABLE, Leaf, dtype_of, names_in
from lightning_mm.json_files import read_json
from lightning_mm.modalities import Modalities

WAY_OUT = "export again"
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
        """Build the index from the content of ``export.json``, with checked fields.

        Raises:
            LightningMMError: If names, outputs and programs do not fit together.
        """
        modalities = Modalities(state["modalities"])
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
        if _names_in(form) != list(dtypes):
            raise LightningMMError(f"output_form: expected a form of the outputs {list(dtypes)}, got {form!r:.80}")
        about = {key: state[key] for key in ("network", "fingerprint", "adapter", "fill", "versions") if key in state}
        for name in dtypes.values():
            dtype_of(name)
        index = cls(
            modalities, leaves, dict(state["sizes"]), form, dtypes, programs, float(state["tolerance"]),
            state["not_folded"], about,
        )  # fmt: skip
        for name, program in state["programs"].items():
            if name != ANY and modalities.canonical(name) != name:
                raise LightningMMError(f"programs: expected {modalities.canonical(name)!r}, got {name!r}")
            if index.names(name) != list(program["inputs"]):
                raise LightningMMError(
                    f"programs.{name}.inputs: expected {index.names(name)}, got {list(program['inputs'])}"
                )
        named = [leaf["name"] for of_name in state["inputs"].values() for leaf in of_name]
        if named != [leaf.name for leaf in leaves]:
            raise LightningMMError(f"inputs: expected the names {[leaf.name for leaf in leaves]}, got {named}")
        return index


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
    from lightning_mm.schemas.base import check
    from lightning_mm.schemas.export import IndexState

    state = read_json(path, WAY_OUT)
    found = state.get("format") if isinstance(state, Mapping) else None
    if isinstance(found, str) and found != FORMAT:
        raise LightningMMError(f"{path} has format {shown(found)}, this version reads {FORMAT!r}; {WAY_OUT}")
    check(IndexState, state, path, WAY_OUT)
    try:
        return Index.from_dict(state)
    except LightningMMError as error:
        raise LightningMMError(f"{path} is damaged ({error}); {WAY_OUT}") from error


def place_of(folder: Path, name: str) -> Path:
    """Return the place of a file that an index names, which must be in its folder.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is a link that leads out of the folder.
    """
    path = folder / name
    if not path.is_file():
        raise DataNotFoundError(f"the export in {folder} lacks {name}, which its index names; {WAY_OUT}")
    if path.resolve().parent != folder.resolve():
        raise LightningMMError(f"{path} is a link to {path.resolve()}, outside of the export; copy the file itself")
    return path


def _names_in(form: Any) -> list[str] | None:
    """The names of the tensors of a form from a file; None if it is no form."""
    try:
        return names_in(form)
    except (AttributeError, TypeError, ValueError):
        return None
