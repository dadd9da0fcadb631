"""A hard table: what it hides is never read, whatever is on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm import Modalities
from lightning_mm.data import ModalityDropoutDataModule, Ombria, RavdessFeatures
from lightning_mm.data.hard_table import HardTable
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Complete, FixedCombination, PairedShare, UniformCombinations
from tests.support.fake_data import write_data


class Numbers(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Any]:
        values = {name: torch.full((1,), float(index)) for name in ("a", "b")}
        return {"inputs": values, "target": index}


def batches(data: ModalityDropoutDataModule, epochs: int = 2) -> list[dict[str, Any]]:
    data.setup("fit")
    found = []
    for epoch in range(epochs):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        found += list(loader)
    return found


def test_the_same_samples_lack_the_same_modalities_in_every_epoch() -> None:
    table = PairedShare(0.3)
    data = ModalityDropoutDataModule(lambda _: Numbers(), ["a", "b"], Complete(), batch_size=4, train_observed=table)
    expected = table.draw(Modalities(["a", "b"]), range(20), epoch=0, seed=0)
    for batch in batches(data):
        assert torch.equal(batch["observed"], expected[batch["index"]])
        assert torch.equal(batch["available"], batch["observed"])
        for column, name in enumerate("ab"):
            seen = batch["observed"][:, column]
            assert torch.equal(batch["inputs"][name][:, 0], torch.where(seen, batch["index"].float(), 0.0))
    assert data.histogram("train") == {"a": 7, "b": 7, "a+b": 6}
    assert all(batch["observed"].all() for batch in data.val_dataloader()), "the table is that of the training split"
    assert next(b["observed"].tolist() for b in data.plain_dataloader("train")) == expected[:4].tolist()


def test_a_network_of_one_modality_gets_the_samples_that_have_it() -> None:
    both = PairedShare(0.3).draw(Modalities(["a", "b"]), range(20), epoch=0, seed=0)
    data = ModalityDropoutDataModule(
        lambda _: Numbers(), ["b"], Complete(), batch_size=4, train_observed=PairedShare(0.3, of="a+b")
    )
    targets = {int(one) for batch in batches(data) for one in batch["target"]}
    assert targets == set(both[:, 1].nonzero()[:, 0].tolist())
    with pytest.raises(LightningMMError, match="leaves no sample any of"):
        ModalityDropoutDataModule(lambda _: Numbers(), ["b"], train_observed=_Nothing()).setup("fit")
    with pytest.raises(
        LightningMMError,
        match=r"Numbers \(train\): data.train_observed says .* UniformCombinations.*in every epoch; use MissingRates",
    ):
        ModalityDropoutDataModule(lambda _: Numbers(), ["a", "b"], train_observed=UniformCombinations()).setup("fit")
    with pytest.raises(LightningMMError, match="of lacks 'b'"):
        PairedShare(0.3, of="a+c").draw(Modalities(["b"]), [0], epoch=0, seed=0)
    with pytest.raises(LightningMMError, match=r"leaves samples without any modality; a table .* data.train_observed"):
        ModalityDropoutDataModule(lambda _: Numbers(), ["b"], PairedShare(0.3, of="a+b")).setup("fit")
    with pytest.raises(LightningMMError, match="no whole number; choose another block"):
        PairedShare(0.25)


class _Nothing(Complete):
    def draw(self, modalities: Any, index: Any, *, epoch: int, seed: int) -> Tensor:
        return torch.zeros(len(index), len(modalities), dtype=torch.bool)


def test_shares_are_balanced_over_any_number_of_modalities() -> None:
    names = Modalities(["a", "b", "c"])
    drawn = PairedShare(0.3).draw(names, range(600), epoch=4, seed=1)
    assert torch.equal(drawn, PairedShare(0.3).draw(names, range(600), epoch=0, seed=1))
    assert not torch.equal(drawn, PairedShare(0.3).draw(names, range(600), epoch=0, seed=2))
    single = drawn[drawn.sum(1) == 1]
    assert len(single) == 420
    assert single.sum(0).tolist() == [140, 140, 140]
    assert int((drawn.sum(1) == 3).sum()) == 180
    for share, paired in ((1.0, 600), (0.0, 0)):
        assert int(PairedShare(share).draw(names, range(600), epoch=0, seed=1).all(1).sum()) == paired
    alone = PairedShare(0.3, unpaired=False).draw(names, range(600), epoch=0, seed=1)
    assert torch.equal(alone.all(1), drawn.all(1))
    assert torch.equal(alone.any(1), drawn.all(1)), "the same pairs"


def test_hidden_files_are_not_opened(tmp_path: Path) -> None:
    write_data("ombria", tmp_path)
    root = next(path for path in tmp_path.iterdir() if path.is_dir())

    def made() -> ModalityDropoutDataModule:
        return ModalityDropoutDataModule(
            lambda split: Ombria(split, str(root), allow_missing=True), list(Ombria.channels), Complete(),
            batch_size=4, train_observed=PairedShare(0.0),
        )  # fmt: skip

    before = batches(made())
    whole = made()
    whole.setup("fit")
    table: Any = whole._split("train").dataset
    hidden = 0
    for row, exists in enumerate(table.available.tolist()):
        for name, there in zip(Ombria.channels, exists):
            for path in [] if there else table.dataset._files[row][name]:
                path.unlink()
                hidden += 1
    assert hidden
    after = batches(made())
    assert len(before) == len(after)
    for one, other in zip(before, after):
        assert torch.equal(one["observed"], other["observed"])
        assert torch.equal(one["target"], other["target"])
        assert all(torch.equal(value, other["inputs"][name]) for name, value in one["inputs"].items())


def test_rows_of_a_table_that_are_hidden_may_be_deleted(tmp_path: Path) -> None:
    write_data("ravdess", tmp_path)
    root = next(path for path in tmp_path.iterdir() if path.is_dir())
    data = ModalityDropoutDataModule(
        lambda split: RavdessFeatures(split, str(root), allow_missing=True), ["audio", "video"], Complete(),
        train_observed=FixedCombination("video"),
    )  # fmt: skip
    clips = set(RavdessFeatures("train", str(root)).ids)
    file = root / "audio_summary.csv"
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(clip in line for clip in list(clips)[1:])]  # one for the statistics
    assert len(kept) < len(lines)
    file.write_text("".join(kept))
    for batch in batches(data):
        assert batch["observed"].tolist() == [[False, True]] * len(batch["observed"])


class Some(Numbers):
    def read_some(self, index: int, modalities: list[str]) -> dict[str, Any]:
        values = {name: torch.full((1,), -1.0 - index) if name in modalities else None for name in ("a", "b")}
        return {"inputs": values, "target": index}


class Changed(Some):
    """A user's subclass, which changes how a sample is read and does not know of parts."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": {name: torch.full((1,), 100.0 + index) for name in ("a", "b")}, "target": index}


def test_a_subclass_that_reads_samples_in_its_own_way_is_read_so() -> None:
    names = Modalities(["a", "b"])
    for made, offset, sign in ((Some(), -1, -1), (Changed(), 100, 1)):
        table = HardTable(made, names, FixedCombination("b"), seed=0)
        assert table[3]["inputs"] == {"a": None, "b": torch.tensor([float(offset + sign * 3)])}


def test_rows_of_one_modality_are_those_that_the_table_has() -> None:
    table = PairedShare(0.3)
    data = ModalityDropoutDataModule(
        lambda _: Numbers(), ["a", "b"], Complete(), batch_size=4, train_observed=table, switching="random"
    )
    expected = table.draw(Modalities(["a", "b"]), range(20), epoch=0, seed=0).nonzero().tolist()
    for epoch in range(2):
        found = []
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            assert (batch["available"] <= batch["observed"]).all()
            found += [[int(i), int(row.nonzero())] for i, row in zip(batch["index"], batch["available"])]
        assert sorted(found) == expected
