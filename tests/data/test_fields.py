"""Fields of samples: where they come from, and that labels cost no inputs where a data set can leave them unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from lightning_mm.data import AVDigits, Food101, ModalityDropoutDataModule, MsLesions, UtdMhad
from lightning_mm.data.fields import field_of
from lightning_mm.data.hard_table import HardTable
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Complete, DependsOnField, MissingnessPolicy, PairedShare, SameEveryEpoch
from lightning_mm.modalities import Modalities
from tests.support.fake import ms_lesions
from tests.support.fake_data import SMALL, write_data


class Numbers(Dataset[dict[str, Any]]):
    """Sample ``i`` is of class ``i % 2``; counts how often samples are read."""

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        return {"inputs": {"a": torch.ones(1), "b": torch.ones(1)}, "target": torch.tensor(index % 2)}


class Sites(Numbers):
    def __init__(self) -> None:
        super().__init__()
        self.fields = {"site": ["north"] * 10 + ["south"] * 30}


def made(dataset: Dataset[Any], **policies: MissingnessPolicy) -> ModalityDropoutDataModule:
    return ModalityDropoutDataModule(lambda _: dataset, ["a", "b"], batch_size=8, **policies)  # type: ignore[arg-type]


def test_fields_of_data_sets(tmp_path: Path) -> None:
    digits = AVDigits("train", str(write_data("av_digits", tmp_path)), pairs=2)
    assert field_of(digits, "label") == [str(digits[index]["target"]) for index in range(len(digits))]
    assert field_of(digits, "speaker") == [name.split("_")[1] for name in digits.recordings]
    actions = UtdMhad("train", str(write_data("utd_mhad", tmp_path)))
    assert field_of(actions, "label") == [str(actions[index]["target"]) for index in range(len(actions))]
    assert field_of(actions, "subject") == [str(subject) for _, subject, _ in actions.keys]
    ms_lesions.write(tmp_path / "ms")
    lesions = MsLesions("train", str(tmp_path / "ms"), size=8)
    assert field_of(lesions, "patient") == [one.split("/")[0] for one in field_of(lesions, "id")]


def test_labels_are_read_without_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Food101("train", str(write_data("food101", tmp_path)), **SMALL.get("food101", {}))
    expected = [str(int(data[index]["target"])) for index in range(len(data))]
    monkeypatch.setattr(Food101, "_image", lambda *_: pytest.fail("an image was read"))
    monkeypatch.setattr(Food101, "_text", lambda *_: pytest.fail("a text was read"))
    assert field_of(data, "label") == expected


def test_labels_of_other_data_sets_are_read_once() -> None:
    numbers = Numbers()
    data = made(numbers, train_policy=DependsOnField("label", {"0": {"a": 1.0}, "1": {"b": 1.0}}))
    data.setup("fit")
    before = numbers.read
    for _ in range(2):
        for batch in data.train_dataloader():
            assert torch.equal(batch["available"][:, 0], batch["target"] == 1)
            assert torch.equal(batch["available"][:, 1], batch["target"] == 0)
            assert batch["observed"].all()
    assert numbers.read - before == 80, "batches alone"
    assert data.histogram("train") == {"a": 20, "b": 20}


def test_every_split_has_its_own_fields() -> None:
    rates: dict[str, float | dict[str, float]] = {"north": {"a": 1.0}, "south": 0.0}
    policy = DependsOnField("site", rates)
    data = made(Sites(), train_policy=policy, val_policy=policy, test_policy=policy)
    for split in ("train", "val", "test"):
        assert data.histogram(split) == {"b": 10, "a+b": 30}


def test_of_a_hard_table_fields_are_those_of_the_samples_that_are_left() -> None:
    sites = DependsOnField("site", {"north": {"a": 1.0}, "south": {"b": 1.0}})
    table = SameEveryEpoch(sites)
    data = made(Sites(), train_policy=Complete(), train_observed=table)
    data.setup("fit")
    assert data.histogram("train") == {"a": 30, "b": 10}
    one = ModalityDropoutDataModule(
        lambda _: Sites(),
        ["b"],
        Complete(),
        train_observed=SameEveryEpoch(DependsOnField("site", sites.p_missing, of="a+b")),
    )
    assert len(one._split("train")) == 10
    hidden = HardTable(Sites(), Modalities(["a"]), PairedShare(0.0, of="a+b", block=2), 0)
    assert hidden.field("site") == [["north", "south"][row >= 10] for row in hidden.rows]
    assert len(hidden) == 20


def test_mistakes() -> None:
    with pytest.raises(LightningMMError, match=r"no field 'city', only \['site', 'label'\]; give .* or read the field"):
        field_of(Sites(), "city")
    with pytest.raises(LightningMMError, match=r"no field 'id'.*ids, one text for each sample"):
        field_of(Numbers(), "id")
    wrong = Sites()
    wrong.fields = {"site": ["north"]}
    with pytest.raises(LightningMMError, match="expected 40 values of the field 'site'"):
        field_of(wrong, "site")
    masks = [{"inputs": {"a": torch.ones(1)}, "target": torch.zeros(2, 2)}]
    with pytest.raises(LightningMMError, match="is not one whole number"):
        field_of(masks, "label")
    with pytest.raises(LightningMMError, match=r"Sites \(train\) has no field 'city'"):
        made(Sites(), train_policy=DependsOnField("city", {"A": 0.1})).setup("fit")
    with pytest.raises(LightningMMError, match="put it into SameEveryEpoch"):
        made(Sites(), train_observed=DependsOnField("site", {"north": 0.5}, default=0.5)).setup("fit")
