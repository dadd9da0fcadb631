"""Writes ``written_by_20b60d7/``: every file format of the package as its code of commit 20b60d7 wrote it.

Adapters, exports and networks are made here, training runs and a study in ``runs_of_20b60d7.py``.

To be run with that commit, and not with a later one (``--only`` makes some of the folders)::

    git worktree add --detach OLD 20b60d7
    cd OLD && PYTHONPATH=$PWD OMP_NUM_THREADS=1 python REPOSITORY/tests/files/make_written_by_20b60d7.py

It is kept as the origin of the files; ``test_written_by_older.py`` reads them. What differs from what was written:
checkpoints are called ``*.checkpoint`` (git ignores ``*.ckpt``), paths of the machine became relative ones, and logs,
pictures and copies of the same figures were left out.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shutil
import sys
import sysconfig
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])  # for the workers of a study

import networks_of_20b60d7 as networks  # noqa: E402
import runs_of_20b60d7 as runs  # noqa: E402
import torch  # noqa: E402
from networks_of_20b60d7 import INPUTS, MODALITIES, mixed_call, mixed_network, numbered_tensor  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import lightning_mm  # noqa: E402
from lightning_mm.adapters import (  # noqa: E402
    IA3,
    SSF,
    Adapted,
    Additive,
    BatchNormSSF,
    BitFit,
    Bottleneck,
    LoRA,
    NormTuning,
    OneHot,
    Pairwise,
    PromptTokens,
    ScaleOnly,
    Shared,
    ShiftOnly,
    Together,
    adapt,
    fingerprint,
    keep_layers,
    load,
    place,
    refit_batch_norm,
    sensitivity,
)  # fmt: skip
from lightning_mm.export import export_adapted, export_network  # noqa: E402
from lightning_mm.missing import (  # noqa: E402
    Constant,
    EmptyText,
    Learned,
    Mean,
    MeanInput,
    Noise,
    PerModality,
    Tokens,
    save_mean_inputs,
)  # fmt: skip
from lightning_mm.modalities import Modalities  # noqa: E402

OUT = HERE / "written_by_20b60d7"
NAMES = Modalities(MODALITIES)

# Adapters

FEW = ["encoders.image.norm", "block.linear1", "head"]
"""Layers of the cases that are about something else than layers; all kinds of them have files of their own."""
ADAPTERS: dict[str, dict[str, Any]] = {
    "ssf_onehot": {"kind": SSF(), "basis": OneHot()},
    "ssf_additive": {"kind": SSF(), "basis": Additive(), "fill": Learned({"image": 3}, channel_axis=1)},
    "ssf_pairwise": {"kind": SSF(), "basis": Pairwise(), "targets": FEW, "fill": Constant({"image": 0.5})},
    "ssf_shared": {"kind": SSF(), "basis": Shared(), "targets": FEW, "fill": Noise(0.5, seed=3)},
    "ssf_unseen": {
        "kind": SSF(), "basis": OneHot(["image+text", "image+audio", "audio"], unseen="superset"), "targets": FEW,
        "fill": Mean({"image": [0.1, -0.2, 0.3], "audio": 0.25}),
    },
    "scale_only": {"kind": ScaleOnly(), "basis": Additive(), "targets": FEW, "fill": Tokens({"text": [2, 3]}, pad=1)},
    "shift_only": {
        "kind": ShiftOnly(), "basis": Additive(), "targets": FEW,
        "fill": PerModality({"audio": Learned({"audio": 5}, -1), "text": EmptyText(cls=2, sep=3), "image": Noise()}),
    },
    "lora_onehot": {"kind": LoRA(rank=2, alpha=3.0), "basis": OneHot(["image", "text", "image+audio"], "subset")},
    "lora_additive": {"kind": LoRA(rank=1, layers=["head", "encoders.*"]), "basis": Additive()},
    "ia3": {"kind": IA3(outputs=["head"], inputs=["block.linear2"]), "basis": Additive()},
    "bitfit": {"kind": BitFit(), "basis": Additive()},
    "bottleneck": {"kind": Bottleneck(2, "relu", ["block.linear2"]), "basis": OneHot()},
    "norm_tuning": {"kind": NormTuning(), "basis": Additive()},
    "prompts_onehot": {"kind": PromptTokens(2), "basis": OneHot()},
    "prompts_pairwise": {"kind": PromptTokens(1, ["block"]), "basis": Pairwise()},
    "together": {
        "kind": Together([SSF(), LoRA(rank=1, layers=["head", "block.linear*"])]), "basis": Additive(),
        "exclude": ["encoders.text"],
    },
    "encoders": {"kind": SSF(), "basis": OneHot(), "targets": FEW, "encoders": {"audio": "encoders.audio"}},
    "no_fill": {"kind": SSF(), "basis": Additive(), "targets": FEW, "fill": None},
    "grouped": {"kind": SSF(), "basis": OneHot(), "targets": FEW, "grouped": True},
}  # fmt: skip
"""Name of the folder to the settings of `adapt`; fresh rows are replaced by numbers."""


def write_adapters(out: Path) -> None:
    """A folder for each of ``ADAPTERS``; others that were refitted, placed and named; outputs of all combinations."""
    made = {name: _adapted(name, settings) for name, settings in ADAPTERS.items()}
    for name, one in made.items():
        _set_rows(one)
        one.save(out / name)
    refitted = _adapted("refitted", {"kind": BatchNormSSF(), "basis": OneHot()})
    refit_batch_norm(refitted.adapter, refitted.base, [mixed_call(8)])
    refitted.save(out / "refitted")
    placed = _adapted("placed", {"kind": SSF(), "basis": Additive()})
    layers = sensitivity(placed.adapter, placed.base, [(mixed_call(6), NAMES.masks()[:6])], _loss(placed))
    total = sum(parameter.numel() for parameter in placed.base.parameters())
    keep_layers(placed.adapter, placed.base, place(layers, 60, total, "gain"))
    _set_rows(placed)
    placed.save(out / "placed")
    save_mean_inputs({"image": networks.numbers((3, 4, 4), "mean"), "audio": networks.numbers((5,), "mean")},
                     out / "mean_input" / "means.safetensors")  # fmt: skip
    with _inside(out / "mean_input"):
        filled = _adapted("mean_input", {"kind": SSF(), "basis": Additive(), "targets": FEW,
                                         "fill": MeanInput("means.safetensors")})  # fmt: skip
        _set_rows(filled)
        filled.save(".")
    for name, kind in {"first": SSF(), "rgb+depth.v2": LoRA(rank=1)}.items():
        one = _adapted(name, {"kind": kind, "basis": Additive(), "targets": FEW[1:]})
        _set_rows(one)
        one.save(out / "named", name)
    outputs = {name: _outputs(out / name) for name in (*made, "refitted", "placed", "mean_input")}
    outputs |= {f"named/{name}": _outputs(out / "named", name) for name in ("first", "rgb+depth.v2")}
    save_file({"base": _base_outputs(), **outputs}, out / "outputs.safetensors")
    (out / "fingerprint.txt").write_text(fingerprint(mixed_network()) + "\n", encoding="utf-8")


def _adapted(name: str, settings: dict[str, Any]) -> Adapted:
    call = mixed_call(4, gains=name == "grouped")
    return adapt(mixed_network(), NAMES, inputs=INPUTS, example=call, **settings)


def _set_rows(adapted: Adapted) -> None:
    with torch.no_grad():
        for key, parameter in adapted.adapter.named_parameters():
            parameter.copy_(0.4 * numbered_tensor(f"{key}.row", parameter))


def _loss(adapted: Adapted) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def loss(call: Any, available: torch.Tensor) -> torch.Tensor:
        with adapted.adapter.using(available):
            return adapted.base(*call[0], **call[1]).square().mean()

    return loss


@torch.no_grad()
def _outputs(folder: Path, name: str | None = None) -> torch.Tensor:
    """``[7, 3, 3]``: combination, sample, output; of the adapter that was read back from its files."""
    with _inside(folder):
        adapted = load(".", mixed_network(), name)
    args, kwargs = mixed_call(3, gains=folder.name == "grouped")
    masks = NAMES.masks()
    return torch.stack([adapted(*args, **kwargs, available=mask.expand(3, -1)) for mask in masks])


@torch.no_grad()
def _base_outputs() -> torch.Tensor:
    args, kwargs = mixed_call(3)
    return mixed_network()(*args, **kwargs)


# Networks: the keys of their state, which checkpoints hold


@torch.no_grad()
def write_networks(out: Path) -> None:
    """Names and shapes in the ``state_dict`` of every network of the package, and outputs with numbers as weights."""
    states, outputs = {}, {}
    for name, (make, inputs) in networks.PACKAGE_NETWORKS.items():
        network = networks.numbered(make())
        state = network.state_dict()
        states[name] = {key: [str(value.dtype).removeprefix("torch."), *value.shape] for key, value in state.items()}
        for combination, found in networks.outputs_of(network, inputs()).items():
            outputs[f"{name}/{combination}"] = found
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(states, indent=0).encode()
    (out / "states.json.gz").write_bytes(gzip.compress(text, mtime=0))
    save_file(outputs, out / "outputs.safetensors")


# Exports


def write_exports(out: Path) -> None:
    """An adapted network in each format, and one without an adapter; inputs are those of ``sensors_inputs``."""
    network, inputs = networks.numbered(networks.TwoSensors()), networks.sensors_inputs()
    adapted = adapt(network, ["rgb", "steps"], SSF(), basis=Additive(), example=((), inputs))
    _set_rows(adapted)
    dynamic = {"steps.values": {1: "time"}}
    export_adapted(adapted, ((), inputs), out / "torch", combinations=["rgb"], formats=["torch"], dynamic=dynamic)
    export_adapted(adapted, ((), inputs), out / "onnx", combinations=["rgb+steps"], formats=["onnx"], mixed=False)
    names = adapted.adapter.modalities
    outputs = {}
    with torch.no_grad():
        for combination in names.combinations():
            found = adapted(**inputs, available=names.mask(combination).expand(4, -1))
            outputs |= {f"{combination}/{key}": value.contiguous() for key, value in found.items()}
        outputs["plain/logits"] = adapted.remove()(**inputs)["logits"]
    export_network(network, names, ((), inputs), out / "plain", formats=["torch"], combinations=["rgb+steps"],
                   mixed=False)  # fmt: skip
    save_file(outputs, out / "outputs.safetensors")
    for folder in (out / "torch", out / "onnx", out / "plain"):
        _without_paths_in_programs(folder)


def _without_paths_in_programs(folder: Path) -> None:
    """Take the machine's paths out of the stack traces that torch keeps in a program; the index gets the new hashes."""
    index = (folder / "export.json").read_text(encoding="utf-8")
    for path in sorted(folder.glob("*.pt2")) + sorted(folder.glob("*.onnx")):
        content = path.read_bytes()
        changed = _pt2_without_paths(content) if path.suffix == ".pt2" else _without_paths(content)
        path.write_bytes(changed)
        index = index.replace(sha256(content).hexdigest(), sha256(changed).hexdigest())
    (folder / "export.json").write_text(index, encoding="utf-8")


def _pt2_without_paths(content: bytes) -> bytes:
    """The graph, a text of 100 kB, is compressed too."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            kind = zipfile.ZIP_DEFLATED if entry.filename.endswith("model.json") else zipfile.ZIP_STORED
            new.writestr(entry, _without_paths(old.read(entry)), kind)
    return made.getvalue()


def _without_paths(content: bytes) -> bytes:
    """Every folder of the machine as ``.////``, which is as long: lengths inside the file stay right."""
    for folder in _machine_folders():
        content = content.replace(folder, b"." + b"/" * (len(folder) - 1))
    return content


def _machine_folders() -> list[bytes]:
    checkout = Path(lightning_mm.__file__).resolve().parents[1]
    folders = {checkout, HERE, Path(sysconfig.get_paths()["purelib"]), Path(sysconfig.get_paths()["stdlib"])}
    return sorted((str(folder).encode() for folder in folders), key=len, reverse=True)


# All of it

PARTS: dict[str, Callable[[Path], None]] = {
    "adapter": write_adapters,
    "networks": write_networks,
    "export": write_exports,
    "checkpoint": runs.write_runs,
    "study": runs.write_study,
}


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def check_no_path_of_this_machine(folder: Path) -> None:
    """Look into all files, entries of archives too."""
    words = [*_machine_folders(), str(Path.home()).encode() + b"/", tempfile.gettempdir().encode() + b"/"]
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        contents = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(entry) for entry in archive.namelist()]
        found = [word for word in words for content in contents if word in content]
        assert not found, f"{path} holds {found}"


def main() -> None:
    """Make the folders anew, each in a temporary working directory."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    warnings.filterwarnings("ignore", message=".*layers are left out")
    for part in parser.parse_args().only:
        shutil.rmtree(OUT / part, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder, _inside(Path(folder)):
            PARTS[part](OUT / part)
        check_no_path_of_this_machine(OUT / part)
        sizes = [path.stat().st_size for path in (OUT / part).rglob("*") if path.is_file()]
        print(f"{part}: {len(sizes)} files, {sum(sizes):,} bytes")


if __name__ == "__main__":
    main()
