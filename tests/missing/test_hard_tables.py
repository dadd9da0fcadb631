"""Tables of what exists in training: shares that hold, files by name, mistakes that are told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lightning_mm import Modalities
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing import CsvTable, MissingRates

NAMES = Modalities(["flair", "t1ce", "t1", "t2"])
MR2468 = {"flair": 1 - 82 / 199, "t1ce": 1 - 121 / 199, "t1": 1 - 170 / 199, "t2": 1 - 41 / 199}
PASSION = 'data_name,mask_id,mask,pos_mask_ids\nBrats18_a,1,"[False, True, False, False]",[1]\n'
PASSION += 'HG_BraTS20_b,10,"[True, True, True, False]","[1, 2, 3, 5, 6, 9, 10]"\n'


@pytest.mark.parametrize(
    "p_missing", [0.0, 0.3, 0.5, 0.7, 0.75, MR2468, {"flair": 1.0, "t1ce": 0.0, "t1": 0.5, "t2": 0.9}], ids=str
)
def test_shares_are_those_asked_for(p_missing: float | dict[str, float]) -> None:
    size = 20_000
    drawn = MissingRates(p_missing).draw(NAMES, range(size), epoch=0, seed=4)
    assert drawn.any(1).all()
    shares = p_missing if isinstance(p_missing, dict) else dict.fromkeys(NAMES, p_missing)
    for column, name in enumerate(NAMES):
        spread = math.sqrt(size * shares[name] * (1 - shares[name]))
        assert abs(int((~drawn[:, column]).sum()) - size * shares[name]) <= 4 * spread, name


def test_modalities_are_missing_independently() -> None:
    drawn = MissingRates({"a": 0.3, "b": 0.6, "c": 0.0}).draw(
        Modalities(["a", "b", "c"]), range(20_000), epoch=0, seed=0
    )
    both = int((~drawn[:, 0] & ~drawn[:, 1]).sum())
    assert abs(both - 3600) <= 4 * math.sqrt(20_000 * 0.18 * 0.82)


def test_a_draw_is_of_sample_seed_and_settings_alone() -> None:
    table = MissingRates(0.5)
    drawn = table.draw(NAMES, range(200), epoch=0, seed=1)
    some = torch.tensor([150, 3, 3])
    assert torch.equal(table.draw(NAMES, some, epoch=7, seed=1), drawn[some])
    others = [
        table.draw(NAMES, range(200), epoch=0, seed=2),
        MissingRates(0.4).draw(NAMES, range(200), epoch=0, seed=1),
    ]
    assert all((one != drawn).any(1).float().mean() > 0.3 for one in others)
    part = Modalities(["t2", "t1ce"])
    for of_all in (MissingRates(0.5, of="flair+t1ce+t1+t2"), MissingRates(dict.fromkeys(NAMES, 0.5))):
        assert torch.equal(of_all.draw(part, range(200), epoch=0, seed=1), drawn[:, [3, 1]])


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(LightningMMError, match=r"add up to 0\.8, less than 1; with 4 modalities at most 0\.75"):
        MissingRates(0.8).draw(NAMES, range(4), epoch=0, seed=0)
    with pytest.raises(LightningMMError, match="p_missing must be between 0 and 1"):
        MissingRates(1.5)
    with pytest.raises(LightningMMError, match="no share for the modality 't1ce'"):
        MissingRates({"flair": 0.5, "t1": 0.0}).draw(NAMES, [0], epoch=0, seed=0)
    with pytest.raises(LightningMMError, match="p_missing names them itself"):
        MissingRates({"flair": 0.5}, of="flair")


def test_a_table_of_passion_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(PASSION)
    table = CsvTable(str(path))
    expected = torch.tensor([[True, True, True, False], [False, True, False, False]])
    assert torch.equal(table.draw_named(NAMES, ["BraTS20_b", "Brats18_a"]), expected)
    assert table.draw_named(Modalities(["t2", "t1ce"]), ["Brats18_a/7"]).tolist() == [[False, True]]
    renamed = CsvTable(str(path), columns=["t2f", "t1c", "t1n", "t2w"])
    assert renamed.draw_named(Modalities(["t1c", "t2f"]), ["Brats18_a"]).tolist() == [[True, False]]


def test_the_published_tables_are_read(data_root: Path) -> None:
    files = sorted((data_root / "passion_tables").glob("*.csv"))
    assert len(files) == 10
    present = {}
    for file in files:
        table = CsvTable(str(file))
        drawn = table.draw_named(NAMES, list(table.names))
        present[file.stem] = (len(drawn), drawn.sum(0).tolist(), int(drawn.all(1).sum()))
    assert present["Brats2018_imb_split_mr2468"] == (199, [82, 121, 170, 41], 8)
    assert present["Brats2018_imb_split_mr1379"] == (199, [61, 141, 182, 20], 3)
    assert present["Brats2020_imb_split_mr2468"] == (219, [90, 135, 184, 43], 9)


def test_a_table_of_one_column_for_each_modality(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("clip,audio,video\na,True,0\nb,1,true\nc,false,1\n")
    table = CsvTable(str(path))
    drawn = table.draw_named(Modalities(["video", "audio"]), ["c", "a", "b"])
    assert drawn.tolist() == [[True, False], [False, True], [True, True]]
    assert table.draw_named(Modalities(["video"]), []).shape == (0, 1)
    with pytest.raises(LightningMMError, match="no column for the modality 'text', only for"):
        table.draw_named(Modalities(["video", "text"]), ["a"])
    with pytest.raises(LightningMMError, match=r"lacks 2 of 3 samples, 'd' for one; its names are such as 'a'"):
        table.draw_named(Modalities(["video"]), ["a", "d", "e"])
    with pytest.raises(LightningMMError, match="goes by the names of samples"):
        table.draw(Modalities(["video"]), [0], epoch=0, seed=0)


def test_a_name_counts_for_all_samples_that_begin_with_it(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("name,a,b\n19,1,0\n19/7,0,1\n19/8/left,1,1\n")
    drawn = CsvTable(str(path)).draw_named(Modalities(["a", "b"]), ["19/6", "19/7/2", "19/8/left/3", "19/8/right"])
    assert drawn.tolist() == [[True, False], [False, True], [True, True], [True, False]]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("clip,audio,video\na,false,0\n", None, "row 2: no modality exists"),
        ("clip,audio,video\na,true,maybe\n", None, r"row 2: expected true or false for each of \['audio', 'video'\]"),
        ("clip,audio,video\na,true\n", None, "row 2: expected 3 cells, got 2"),
        ("clip,audio,video\na,1,1\na,1,0\n", None, "row 3: 'a' is there twice"),
        ("clip,audio,audio\na,1,1\n", None, r"table .*table\.csv: modalities must be one or more distinct names"),
        ("clip;audio;video\na;1;1\n", None, "separated by commas"),
        ("clip,audio,video\n", None, "one line for each sample, got 1 lines"),
        ("", None, "got 0 lines"),
        ('clip,audio\n"a,1\n', None, "is not a CSV file"),
        ("clip,audio,video\na,1,1\n", ["audio", "video"], "names its modalities itself"),
        (PASSION, ["flair", "t1"], "row 2: expected true or false for each of"),
        (PASSION.replace("False, True, False, False", "False, False, False, False"), None, "row 2: no modality exists"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, columns: list[str] | None, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(LightningMMError, match=message):
        CsvTable(str(path), columns)
    with pytest.raises(DataNotFoundError, match="no table of what exists at"):
        CsvTable(str(tmp_path / "other.csv"))
