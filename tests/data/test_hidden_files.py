"""What a hard table hides is not opened, whatever kind of files a data set reads, nor counted in its statistics."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mm.data import Food101, MFNet, ModalityDropoutDataModule, MsLesions, NtuRgbd, Ombria
from lightning_mm.data.hard_table import HardTable
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Complete, CsvTable, DependsOnField, MissingnessPolicy, MissingRates, SameEveryEpoch
from lightning_mm.tree import tensors_of
from tests.support.fake import ms_lesions
from tests.support.fake_data import SMALL, write_data

TABLE = MissingRates(0.45)


def made(kind: Any, root: Path, names: list[str], table: MissingnessPolicy = TABLE, **settings: Any) -> Any:
    data = ModalityDropoutDataModule(
        lambda split: kind(split, str(root), **settings), names, Complete(), batch_size=4, train_observed=table
    )
    data.setup("fit")
    return data


def batches(data: ModalityDropoutDataModule) -> list[dict[str, Any]]:
    found = []
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        found += list(loader)
    return found


def assert_equal(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    assert len(before) == len(after)
    assert not all(batch["observed"].all() for batch in before)
    for one, other in zip(before, after):
        for first, second in zip(tensors_of(one), tensors_of(other), strict=True):
            assert torch.equal(first, second)


FILES: dict[str, tuple[Any, list[str], Callable[[Any, int, str], list[Path]]]] = {
    "mfnet": (MFNet, ["rgb", "thermal"], lambda data, row, name: list(data._files[row][name])),
    "ntu_rgbd": (NtuRgbd, ["rgb", "depth"], lambda data, row, name: [data.recordings[row].folder(data.root, name)]),
    "food101": (Food101, ["image", "text"], lambda data, row, name: [data._paths[row]] if name == "image" else []),
}


MECHANISM = SameEveryEpoch(DependsOnField("label", {"0": 0.5}, default=0.4))
"""What exists depends on the label."""


@pytest.mark.parametrize(("family", "hides"), [*((one, TABLE) for one in FILES), ("food101", MECHANISM)], ids=repr)
def test_hidden_files_may_be_deleted(family: str, hides: MissingnessPolicy, tmp_path: Path) -> None:
    kind, names, files = FILES[family]
    root = write_data(family, tmp_path)
    settings = {**SMALL.get(family, {}), "allow_missing": True}
    data = made(kind, root, names, hides, **settings)
    before = batches(data)
    table: HardTable = data._split("train").dataset
    hidden = [
        path
        for row, exists in zip(table.rows, table.available.tolist())
        for name, there in zip(names, exists)
        for path in ([] if there else files(table.dataset, row, name))
    ]
    assert hidden
    for path in hidden:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert_equal(before, batches(made(kind, root, names, hides, **settings)))


def test_hidden_slices_do_not_count_in_the_statistics_of_a_patient(tmp_path: Path) -> None:
    names = list(MsLesions.channels)
    ms_lesions.write(tmp_path)
    data = made(MsLesions, tmp_path, names, size=12)
    before = batches(data)
    table: HardTable = data._split("train").dataset
    assert table.rows == list(range(15)), "every slice has a modality"
    arrays = ms_lesions.arrays("19")
    image = arrays["image"].copy()
    image[~table.available.numpy()] *= 7
    ms_lesions.write(tmp_path, {"19": {"image": image}})
    assert_equal(before, batches(made(MsLesions, tmp_path, names, size=12)))
    seen = torch.cat([batch["inputs"]["flair"][batch["observed"][:, 0]] for batch in before])
    assert abs(float(seen[seen != 0].mean())) < 1e-5, "the rest has zero mean"


def test_a_table_by_name_hides_what_it_says(tmp_path: Path) -> None:
    root, file = write_data("ombria", tmp_path), tmp_path / "table.csv"
    names, ids = list(Ombria.channels), Ombria("train", str(root)).ids
    rows = [f"{one},{int(one == ids[0])},1,0,1" for one in reversed(ids)]
    file.write_text("\n".join(["tile," + ",".join(names), "other,1,1,1,1", *rows]))
    data = made(Ombria, root, names, CsvTable(str(file)), allow_missing=True)
    table: HardTable = data._split("train").dataset
    assert table.available.tolist() == [[one == ids[0], True, False, True] for one in ids]
    assert data.histogram("train") == {"s1_before+s1_after+s2_after": 1, "s1_after+s2_after": len(ids) - 1}
    # of one modality alone, only the samples that have it are left
    assert len(made(Ombria, root, names[:1], CsvTable(str(file)))._split("train")) == 1
    file.write_text("\n".join(["tile," + ",".join(names), *rows[1:]]))
    with pytest.raises(LightningMMError, match=f"lacks 1 of {len(ids)} samples, '{ids[-1]}' for one"):
        made(Ombria, root, names, CsvTable(str(file)))
    with pytest.raises(LightningMMError, match=r"NtuRgbd \(train\) does not name its samples"):
        made(NtuRgbd, write_data("ntu_rgbd", tmp_path), ["rgb"], CsvTable(str(file)), **SMALL["ntu_rgbd"])


def test_a_table_of_patients_counts_for_their_slices(tmp_path: Path) -> None:
    root, file = tmp_path / "ms", tmp_path / "table.csv"
    ms_lesions.write(root)
    file.write_text("patient,flair,t1,t1_post,t2\n19,1,0,1,1\n26,0,0,0,1\n")
    data = made(MsLesions, root, list(MsLesions.channels), CsvTable(str(file)), size=12)
    assert data.histogram("train") == {"flair+t1_post+t2": 15}
