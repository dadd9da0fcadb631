"""Folders of adapters, results and exports, changed at random: what is read is right, or refused by one message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from lightning_mm.adapters import load
from lightning_mm.export import Runtime
from lightning_mm.missing import (
    EncoderFeatures,
    FeatureMean,
    IndependentMissing,
    MeanInput,
    SavedTable,
    mean_inputs,
    save_features,
    save_mean_inputs,
    save_table,
)
from lightning_mm.modalities import Modalities
from lightning_mm.results import read, save
from lightning_mm.results.pictures import Examples, read_examples, write_examples
from lightning_mm.tracking.record.runs import LEDGER, Ledger
from tests.support.every_kind import NAMES, build, inputs
from tests.support.export_networks import pair_inputs, write_exports
from tests.support.fuzz import Change, Tally, changes, copied, examples
from tests.support.sweep_results import small_sweep
from tests.support.type_checker import unchecked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.wrong_types,
    pytest.mark.filterwarnings("ignore:[12] layers are left out of the adapter"),
]


def report(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{tally}", end="")
    assert not tally.faults, "\n".join(tally.faults[:40])


def test_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally, given_inputs, masks = Tally("adapters"), inputs(7), NAMES.masks()
    expected: dict[str, Tensor] = {}
    folders: list[str] = []
    for kind in ("SSF", "LoRA", "IA3", "Together"):
        adapted = build(kind, "OneHot" if kind == "LoRA" else "Additive")
        adapted.save(tmp_path / kind)
        with torch.no_grad():
            expected[kind] = adapted(**given_inputs, available=masks)
        copied(tmp_path / kind, tmp_path / f"old {kind}")
        path = tmp_path / f"old {kind}" / "adapter_config.json"
        config = json.loads(path.read_text())
        del (
            config["config_sha256"],
            config["weights_sha256"],
        )  # older releases had none
        path.write_text(json.dumps(config))
        folders += [kind, f"old {kind}"]
        base = adapted.remove()

    @examples(420)
    @given(changes())
    def run(change: Change) -> None:
        kind = folders[int(change.place * 1000) % len(folders)]
        folder = copied(tmp_path / kind, tmp_path / "changed")
        change.apply(folder)

        def action() -> bool:
            adapted = load(folder, base)
            try:
                with torch.no_grad():
                    outputs = adapted(**given_inputs, available=masks)
                return kind not in expected or torch.equal(outputs, expected[kind])
            finally:
                adapted.remove()

        tally.of(action, (kind, change))

    run()
    report(tally, capsys)


def test_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally, result = Tally("results"), small_sweep()
    save(result, tmp_path / "sweep")
    for name in ("sweep.md", "sweep.png"):
        (tmp_path / "sweep" / name).unlink()

    @examples(420)
    @given(changes())
    def run(change: Change) -> None:
        folder = copied(tmp_path / "sweep", tmp_path / "changed")
        change.apply(folder)

        def action() -> bool:
            again = read(folder)
            if int(change.place * 1000) % 8 == 0:  # its picture takes longer than all the rest
                save(again, tmp_path / "again")
            # a changed CSV is read with a warning, and alone
            return again.rows == result.rows or not again.samples

        tally.of(action, change)

    run()
    report(tally, capsys)


def test_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples of pictures, and the ledger of W&B runs."""
    tally, sound = Tally("records"), tmp_path / "sound"
    write_examples(Examples(["a"], np.arange(2), {"rgb": np.ones((2, 3, 3, 3), np.uint8)}), sound)
    ledger = Ledger(sound / LEDGER, "ab" * 8, {})
    ledger.set("adapted/seed0", id="abc-1", digest="0" * 64, state="open", mode="offline", url=None)

    @examples(300)
    @given(changes())
    def run(change: Change) -> None:
        folder = copied(sound, tmp_path / "changed")
        change.apply(folder)

        def action() -> bool:
            again = Ledger.read(folder / LEDGER)
            for key, state in list(again.runs.items()):
                again.set(key, **state)
            found = read_examples(folder)
            return found is None or found.inputs.get("rgb", np.ones(1)).all()

        tally.of(action, change)

    run()
    report(tally, capsys)


def test_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with unchecked():
        write_exports(tmp_path / "exports")
    tally, given_inputs = Tally("exports"), pair_inputs(3)
    expected = {backend: Runtime(tmp_path / "exports" / "pair", backend)(given_inputs) for backend in ("torch", "onnx")}

    @examples(240)
    @given(changes())
    def run(change: Change) -> None:
        folder = copied(tmp_path / "exports" / "pair", tmp_path / "changed")
        if int(change.file * 1000) % 3:  # most of them change the index, which sorts among the programs
            index = folder / "export.json"
            alone = tmp_path / "alone"
            copied(tmp_path / "exports" / "pair", alone)
            for path in alone.iterdir():
                if path.name != index.name:
                    path.unlink()
            change.apply(alone)
            index.unlink()
            for path in alone.iterdir():
                path.rename(folder / path.name)
        else:
            change.apply(folder)

        def action() -> bool:
            backend = "torch" if int(change.place * 1000) % 20 == 0 else "onnx"  # which opens in a tenth of the time
            found = Runtime(folder, backend)(given_inputs)
            return torch.equal(found["logits"], expected[backend]["logits"])

        tally.of(action, change)

    run()
    report(tally, capsys)


def test_tables_and_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally, names, files = Tally("tables"), Modalities(["rgb", "depth"]), tmp_path / "files"
    files.mkdir()
    save_table(files / "table.npz", IndependentMissing(0.5), names, 40, seed=1)
    samples = [{"inputs": {"rgb": torch.randn(3), "depth": torch.randn(2)}} for _ in range(4)]
    save_mean_inputs(mean_inputs(samples, list(names)), files / "means.safetensors")
    means = {name: torch.randn(4) for name in names}
    save_features(EncoderFeatures({name: name for name in names}, means), files / "features.safetensors")
    expected = SavedTable(str(files / "table.npz")).draw(names, range(40), epoch=0, seed=0)

    @examples(120)
    @given(changes("flip", "cut", "empty", "junk", "zeros", "swap", "remove", "folder"))
    def run(change: Change) -> None:
        folder = copied(files, tmp_path / "changed")
        change.apply(folder)

        def table() -> bool:
            return torch.equal(SavedTable(str(folder / "table.npz")).draw(names, range(40), epoch=0, seed=0), expected)

        def features() -> bool:
            row = FeatureMean(str(folder / "features.safetensors")).mean("rgb")
            return row.shape == (1, 4) and bool(row.isfinite().all())

        def mean_input() -> bool:
            # the format has no checksum: other numbers are read, of the same shape
            row = MeanInput(str(folder / "means.safetensors")).row("rgb", torch.zeros(2, 3))
            return row.shape == (1, 3) and bool(row.isfinite().all())

        tally.of((features, mean_input, table, table)[min(int(change.file * 4), 3)], change)

    run()
    report(tally, capsys)
