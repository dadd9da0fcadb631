"""ViLT adapted: missing-aware prompts do what they say, and SSF pays on images and texts with a signal."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from lightning_mm.adapters import SSF, LoRA, OneHot, PromptTokens, Together, adapt, load
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.missing import Complete, PerModality, UniformCombinations
from lightning_mm.models import ViLT
from lightning_mm.sweep import sweep
from lightning_mm.tasks import ClassificationTask
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise
from tests.support.model_checks import rows
from tests.support.new_tasks import trainer
from tests.support.repository import REPOSITORY
from tests.support.tiny_vilt import FILL, NAMES, inputs, tiny

FOOD = REPOSITORY / "experiments" / "food101"
CLASSES = 4
FULL = torch.ones(3, 2, dtype=torch.bool)
MIXED = torch.tensor([[True, False], [False, True], [True, True]])


def prompted(network: ViLT, length: int = 16) -> Any:
    """As in experiments/food101/prompts.yaml, for a network of two blocks."""
    kinds = [
        PromptTokens(length, ["backbone.encoder.layer.[0-5]"]),
        LoRA(10_000, layers=["backbone.pooler.dense", "head.*"]),
    ]
    adapted = adapt(network, NAMES, Together(kinds), basis=OneHot(), fill=FILL, example=((inputs(),), {}))
    randomise(adapted.adapter, scale=0.2)
    return adapted


def test_prompts_are_of_each_missing_case_and_never_of_a_complete_sample() -> None:
    network, batch = tiny(), inputs()
    with torch.no_grad():
        before, absent = network(batch), {}
        for name in NAMES.incomplete():
            mask = NAMES.mask(name).expand(3, -1)
            absent[name] = network({key: FILL(key, value, mask[:, i]) for i, (key, value) in enumerate(batch.items())})
        adapted = prompted(network)
        assert [site.name for site in adapted.adapter.sites] == [
            "backbone.encoder.layer.0", "backbone.encoder.layer.1", "backbone.pooler.dense", "head.0", "head.3",
        ]  # fmt: skip
        together = adapted(batch, available=MIXED)
        assert torch.equal(adapted(batch, available=FULL), before)
        torch.testing.assert_close(together[2], before[2], rtol=1e-5, atol=1e-5)
        for row, name in enumerate(NAMES.incomplete()):
            assert not torch.allclose(together[row], absent[name][row], atol=1e-2)
            alone = adapted(rows(batch, slice(row, row + 1)), available=MIXED[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    assert_missing_invariant(adapted, NAMES, batch)


def test_the_mask_grows_with_the_prompts() -> None:
    """Each block sees 16 tokens more, all of them visible, and the padding stays unseen."""
    network, batch = tiny(), inputs()
    seen: list[torch.Tensor] = []
    network.backbone.encoder.layer[0].attention.attention.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(args[1] if len(args) > 1 else kwargs["attention_mask"]),
        with_kwargs=True,
    )
    with torch.no_grad():
        network(batch)
        adapted = prompted(network)
        seen.clear()
        adapted(batch, available=torch.tensor([[False, True]]).expand(3, -1))
    mask = seen[0]
    tokens = 9 + 1 + 48
    assert mask.shape == (3, 1, 1, 16 + tokens)
    assert mask[..., :16].eq(0).all()
    counts = [1 + 48 + length for length in (9, 6, 2)]  # words, class token, and the whole canvas of ones
    assert mask[..., 16:].eq(0).sum((1, 2, 3)).tolist() == counts


def test_prompts_are_saved_with_their_fills(tmp_path: Path) -> None:
    network, batch = tiny(), inputs()
    adapted = prompted(network)
    with torch.no_grad():
        expected = adapted(batch, available=MIXED)
        adapted.save(tmp_path)
        again = load(tmp_path, adapted.remove())
        assert torch.equal(again(batch, available=MIXED), expected)
    assert isinstance(again.adapter.fill, PerModality)


class Dishes(Dataset[dict[str, Any]]):
    """The class is the place of a bright patch in the image, and one of a few words somewhere in the text."""

    def __init__(self, split: str, length: int) -> None:
        self.split, self.length = split, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.split}/{index}".encode()))
        target = int(torch.randint(CLASSES, (), generator=generator))
        image = 0.5 * torch.randn(3, 16, 16, generator=generator)
        row, column = divmod(target, 2)
        image[target % 3, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1.0
        ids = torch.randint(20, 40, (8,), generator=generator)
        ids[0], ids[-2], ids[-1] = 2, 3, 0
        if float(torch.rand((), generator=generator)) < 0.9:
            place = int(torch.randint(1, 6, (), generator=generator))
            ids[place] = 5 + 3 * target + int(torch.randint(3, (), generator=generator))
        text = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        return {"inputs": {"image": image, "text": text}, "target": target}


def data(policy: Any, length: int = 384, batch_size: int = 32) -> ModalityDropoutDataModule:
    return ModalityDropoutDataModule(
        lambda split: Dishes(split, length), list(NAMES), train_policy=policy, batch_size=batch_size, seed=5
    )


def task() -> ClassificationTask:
    torch.manual_seed(0)
    network = ViLT(
        CLASSES, vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8,
        max_text_length=8,
    )  # fmt: skip
    optimizer: Any = lambda groups: torch.optim.AdamW(groups, lr=0.003)  # noqa: E731
    return ClassificationTask(network, list(NAMES), num_classes=CLASSES, fill=FILL, optimizer=optimizer)


@pytest.mark.slow
def test_it_learns_and_adapting_pays(tmp_path: Path) -> None:
    """A base that saw complete data only, then SSF on the incomplete; chance is a quarter."""
    one = task()
    quick = {"enable_checkpointing": False, "limit_val_batches": 0}
    trainer(tmp_path, [KeyedSeed(0)], epochs=30, **quick).fit(one, data(Complete()))
    base = {key: value.clone() for key, value in one.model.state_dict().items()}
    callbacks = [KeyedSeed(0), FrozenBackboneAdapter(SSF(), OneHot(), exclude=["head*"])]
    one.optimizer = lambda groups: torch.optim.AdamW(groups, lr=0.03)
    trainer(tmp_path, callbacks, epochs=20, **quick).fit(one, data(UniformCombinations(include_full=False)))
    assert all(torch.equal(value, base[key]) for key, value in one.model.state_dict().items())
    result = sweep(one, data(Complete()), trainer=trainer(tmp_path, []), bootstrap=0)
    figures = {(row.method, row.combination): row.value for row in result.rows if row.metric == result.primary_metric}
    assert figures["zero_fill", "image+text"] > 0.85, figures
    assert figures["adapted", "image+text"] == figures["zero_fill", "image+text"]
    assert result.mean("adapted") > result.mean("zero_fill") + 0.1, figures
