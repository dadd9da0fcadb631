"""Files of data sets, changed at random: whole samples, or one message; and masks and batches that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mm import data
from lightning_mm.data.collate import Collate
from lightning_mm.missing import IndependentMissing
from lightning_mm.modalities import Modalities
from lightning_mm.tree import leaves_of
from tests.support.every_kind import NAMES, build, inputs
from tests.support.fake_data import SMALL, write_data
from tests.support.fuzz import Change, Tally, changes, copied, examples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.wrong_types,
    pytest.mark.filterwarnings("ignore:1 layers are left out of the adapter"),
]
SETS: dict[str, Any] = {
    "ombria": data.Ombria,
    "utd_mhad": data.UtdMhad,
    "ms_lesions": data.MsLesions,
    "mosi": data.MosiFeatures,
    "ravdess": data.RavdessFeatures,
    "easy_vqa": data.EasyVqa,
    "mfnet": data.MFNet,
    "nyudv2": data.NYUDv2,
    "mcubes": data.MCubeS,
    "cmu_mosi": data.CmuMosi,
    "food101": data.Food101,
    "ntu_rgbd": data.NtuRgbd,
    "brats": data.BraTS,
    "iemocap": data.Iemocap,
    "av_digits": data.AVDigits,
}


def form(sample: Any) -> list[tuple[Any, ...]]:
    """Names, types and numbers of axes of a sample."""
    return [
        (path, leaf.dtype, leaf.ndim) if isinstance(leaf, torch.Tensor) else (path, type(leaf))
        for path, leaf in leaves_of({"inputs": sample["inputs"], "target": sample["target"]})
    ]


def whole(sample: Any) -> bool:
    tensors = [leaf for _, leaf in leaves_of(sample) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    return all(bool(tensor.isfinite().all()) and tensor.numel() > 0 for tensor in tensors)


def test_data_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally, folders, forms = Tally("data files"), {}, {}
    for family, kind in SETS.items():
        folders[family] = write_data(family, tmp_path / "data")
        forms[family] = form(kind("train", root=str(folders[family]), **SMALL.get(family, {}))[0])
    names = [family for family in SETS if family != "av_digits"] * 3 + ["av_digits"]

    @examples(320)
    @given(changes(), st.sampled_from(names))
    def run(change: Change, family: str) -> None:
        folder = copied(folders[family], tmp_path / "changed" / folders[family].name)
        few = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 3000)
        lists = [path for path in few if path.suffix in (".txt", ".json")]
        if lists and change.place < 0.4:  # most files are images
            alone = tmp_path / "alone"
            alone.mkdir(exist_ok=True)
            for path in alone.iterdir():
                path.unlink() if path.is_file() else path.rmdir()
            chosen = lists[int(change.file * len(lists))]
            chosen.rename(alone / chosen.name)
            change.apply(alone)
            for path in alone.iterdir():
                path.rename(chosen.with_name(path.name))
        else:
            change.apply(folder)

        def action() -> bool:
            right = True
            for split in ("train", "test"):
                opened = SETS[family](split, root=str(folder), **SMALL.get(family, {}))
                for index in {*range(min(len(opened), 4)), len(opened) - 1} - {-1}:
                    sample = opened[index]
                    right &= form(sample) == forms[family] and whole(sample)
            return right

        tally.of(action, (family, change))

    run()
    with capsys.disabled():
        print(f"\n{tally}", end="")
    assert not tally.faults, "\n".join(tally.faults[:40])


ODD: list[Any] = [
    None, True, 3, 1.5, "rgb", [], {}, (), [[True, False, True]] * 7, torch.tensor(1), torch.ones(3), torch.ones(7, 3),
    torch.ones(7, 3, dtype=torch.int64), torch.ones(7, 2) > 0, torch.ones(7, 4) > 0, torch.ones(6, 3) > 0,
    torch.ones(0, 3) > 0, torch.ones(1, 3) > 0, torch.ones(7, 3, 1) > 0, torch.ones(7, 3, dtype=torch.complex64),
    torch.full((7, 3), float("nan")),
]  # fmt: skip
"""What is no mask ``Bool[7, 3]``."""


def test_masks(capsys: pytest.CaptureFixture[str]) -> None:
    tally, given_inputs = Tally("masks"), inputs(7)
    adapted = build("SSF", "Additive")
    with torch.no_grad():
        complete = adapted.base(**given_inputs)
    masks = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=7, max_size=7)

    @examples(150)
    @given(st.one_of(st.sampled_from(ODD), masks.map(torch.tensor)))
    def run(mask: Any) -> None:
        def action() -> bool:
            with torch.no_grad():
                outputs = adapted(**given_inputs, available=mask)
            if mask is None:
                return torch.equal(outputs, complete)
            full = mask.all(1)
            return outputs.shape == complete.shape and torch.equal(outputs[full], complete[full])

        tally.of(action, mask)

    run()
    with capsys.disabled():
        print(f"\n{tally}", end="")
    assert not tally.faults, "\n".join(tally.faults[:40])


def test_samples(capsys: pytest.CaptureFixture[str]) -> None:
    tally, collate = Tally("batches"), Collate(Modalities(["a", "b"]), IndependentMissing(0.3))
    values = st.sampled_from(
        [torch.zeros(3), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), torch.tensor(1.0), None, 1, 1.5, "text",
         [1, 2], {"values": torch.zeros(4, 2), "length": 4}, {"values": torch.zeros(5, 2), "length": 5}, {}, object()]
    )  # fmt: skip
    targets = st.sampled_from([0, 1, torch.tensor(1), 1.0, "cat", None, torch.zeros(2), [0], True])

    @examples(150)
    @given(st.lists(st.tuples(values, values, targets), min_size=1, max_size=4))
    def run(drawn: list[tuple[Any, Any, Any]]) -> None:
        samples = [
            {"inputs": {"a": a, "b": b}, "target": target, "index": place, "epoch": 0}
            for place, (a, b, target) in enumerate(drawn)
        ]

        def action() -> bool:
            batch = collate(samples)
            return batch["available"].shape == (len(samples), 2) and bool(
                (batch["observed"] | ~batch["available"]).all()
            )

        tally.of(action, drawn)

    run()
    with capsys.disabled():
        print(f"\n{tally}", end="")
    assert not tally.faults, "\n".join(tally.faults[:40])


def test_the_masks_of_this_file_are_of_the_network() -> None:
    assert len(NAMES) == 3
