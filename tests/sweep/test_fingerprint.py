"""The data fingerprint: equal for the same samples, whatever the batches; another one for any other data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_mm.data.collate import Collate
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.provenance import DataFingerprint, joined_fingerprint
from lightning_mm.results import SweepResult, merge, renamed
from lightning_mm.sweep import sweep
from lightning_mm.sweep.fingerprint import target_digests
from tests.support.sweep_tasks import VoteTask

NAMES = ["rgb", "depth"]


def samples(count: int = 9, label: int = 0, without_depth: int = 3) -> list[dict[str, Any]]:
    """Samples of which one lacks depth; ``label`` is that of the last."""
    found = []
    for index in range(count):
        inputs: dict[str, Tensor | None] = {name: torch.full((3,), float(index)) for name in NAMES}
        if index == without_depth:
            inputs["depth"] = None
        found.append({"inputs": inputs, "target": label if index == count - 1 else index % 2, "index": index})
    return found


def swept(data: list[dict[str, Any]], batch_size: int = 4, names: list[str] = NAMES, method: str = "a") -> SweepResult:
    loader: Any = DataLoader(data, batch_size=batch_size, collate_fn=Collate(Modalities(names)))  # type: ignore[arg-type]
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    return sweep({method: VoteTask(names)}, loader, modalities=names, bootstrap=0, trainer=trainer)


def test_batches_do_not_matter_and_samples_do() -> None:
    first = swept(samples()).data_fingerprint
    assert first is not None
    assert list(first.observed) == NAMES
    assert len(first.text) == 12
    assert swept(samples(), batch_size=9).data_fingerprint == first
    assert swept(samples()[::-1]).data_fingerprint == first, "nor does the order of the loader"
    others = [samples(8), samples(label=1), samples(without_depth=4)]
    texts = {swept(one).data_fingerprint.text for one in others}  # type: ignore[union-attr]
    assert len(texts | {first.text}) == 4
    moved = [{**one, "index": one["index"] + 1} for one in samples()]
    assert swept(moved).data_fingerprint != first
    turned = swept(samples(), names=NAMES[::-1]).data_fingerprint
    assert turned is not None
    assert turned.text == first.text, "nor does the order of the modalities"


def test_sweeps_of_other_data_are_not_put_into_one_table() -> None:
    whole = swept(samples())
    assert merge([whole, swept(samples(), method="b")]).data_fingerprint == whole.data_fingerprint
    alone = swept(samples(), names=["rgb"], method="b")
    assert merge([whole, alone]).data_fingerprint == whole.data_fingerprint, "a network for one modality"
    old = swept(samples(), method="c")
    old.data_fingerprint = None
    assert merge([whole, old]).data_fingerprint is None, "what is not known of one part is not said of the whole"
    relabelled = swept(samples(label=1), method="b")
    relabelled.samples = {}
    with pytest.raises(
        LightningMMError, match=r"of different data: indices or labels of the samples differ .*same copy"
    ):
        merge([whole, relabelled])
    other = renamed(swept(samples(without_depth=4)), {"a": "b"})
    with pytest.raises(LightningMMError, match=r"other samples lack modality 'depth' .*same table of missing"):
        merge([whole, other])


def test_content_is_read_back() -> None:
    one = DataFingerprint("a" * 64, {"rgb": "b" * 64})
    assert DataFingerprint.of(one.content()) == one
    assert DataFingerprint.of(None) is None
    assert joined_fingerprint([]) is None
    assert one.text != DataFingerprint("a" * 64, {"depth": "b" * 64}).text


def test_targets_are_digested_by_sample() -> None:
    def digests(target: Any) -> list[bytes]:
        return [bytes(row.tolist()) for row in target_digests(target, 3)]

    labels = torch.tensor([1, 2, 1])
    first = digests(labels)
    assert first[0] == first[2] != first[1]
    assert digests(labels.int()) == first, "integers of any width"
    assert digests(labels.float()) != first
    assert digests(torch.tensor([0.5, 1.5, 2.5]).bfloat16()) == digests(torch.tensor([0.5, 1.5, 2.5]))
    maps = torch.arange(12).reshape(3, 2, 2)
    assert digests(maps) != digests(maps.reshape(3, 4))
    assert digests({"a": labels, "b": 5})[0] == digests({"a": labels, "b": 6})[0], "no row per sample"
    assert digests({"a": labels})[0] != digests({"b": labels})[0]
    assert len(set(digests(["x", "y", "x"]))) == 2
    values = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    padded = {"values": values, "length": torch.tensor([2, 4, 1])}
    longer = {"values": values[[0, 2, 2]][:, :2], "length": torch.tensor([2, 1, 1])}
    assert digests(padded)[0] == digests(longer)[0], "padding depends on the batch"
    assert digests(padded)[0] != digests({**padded, "length": torch.tensor([3, 4, 1])})[0]
    zeros = [{"values": torch.zeros(3, width), "length": torch.tensor([2, width, 1])} for width in (2, 4)]
    assert digests(zeros[0])[0] == digests(zeros[1])[0], "zeros of a sequence are its content"
    short = {"values": torch.zeros(3, 4), "length": torch.tensor([1, 4, 1])}
    assert digests(zeros[1])[0] != digests(short)[0]


@pytest.mark.parametrize("longest", [3, 5, 9])
def test_columns_next_to_a_length_are_no_sequence_whatever_the_longest_one(longest: int) -> None:
    columns = torch.arange(1.0, 11.0).reshape(2, 5)
    target = {"columns": columns, "length": torch.tensor([2, longest])}
    first = target_digests(target, 2)[0]
    assert torch.equal(first, target_digests({"columns": columns, "length": torch.tensor([2, 4])}, 2)[0])
    changed = columns.clone()
    changed[0, 4] = 7.0
    assert not torch.equal(first, target_digests({**target, "columns": changed}, 2)[0]), "all columns count"
