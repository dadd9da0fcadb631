"""Retrieval: losses against loops, ranks of a whole split, poison in both steps, several processes, a sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_mm.adapters import SSF, Additive
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.data import Collate, ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.models import EmbeddingExperts, TokenEncoder, VectorEncoder
from lightning_mm.sweep import sweep
from lightning_mm.tasks import RetrievalTask
from lightning_mm.tasks.metrics import expert_similarity, retrieval_metrics
from lightning_mm.tasks.retrieval import ranking
from lightning_mm.tasks.retrieval.gather import gathered
from lightning_mm.tasks.retrieval.losses import info_nce_loss, max_margin_loss
from lightning_mm.tasks.retrieval.ranking import RetrievalFigures, retrieval_figures
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise
from tests.support.ranks import run_ranks

NAMES = ["face", "voice"]
SENTENCES = 4


class Clips(Dataset[dict[str, Any]]):
    """A number shows in two vectors under noise; it is also the only word of the clip's sentence."""

    def __init__(self, split: str, length: int = 22) -> None:
        self.length, self.start = length, {"train": 0, "val": 100, "test": 200}[split]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.start + index)
        number = int(torch.randint(SENTENCES, (), generator=generator))
        noise = {name: 0.7 * torch.randn(SENTENCES, generator=generator) for name in NAMES}
        inputs = {name: one + 2 * nn.functional.one_hot(torch.tensor(number), SENTENCES) for name, one in noise.items()}
        text = {"input_ids": torch.tensor([number + 1, 0]), "attention_mask": torch.tensor([1, 0])}
        return {"inputs": inputs, "target": {"caption": number, "text": text}, "index": index}


def made(batch_norm: bool = True, mask_absent: bool = True, **settings: Any) -> RetrievalTask:
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {name: VectorEncoder(SENTENCES, 16, 8) for name in NAMES}
    network = EmbeddingExperts(encoders, TokenEncoder(9, 8, 16), 6, mask_absent=mask_absent, batch_norm=batch_norm)
    one = RetrievalTask(network, NAMES, **settings)
    one.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return one


def batch(size: int = 9, start: int = 0) -> dict[str, Any]:
    found = Collate(Modalities(NAMES))([Clips("train", 99)[index] for index in range(start, start + size)])
    masks = torch.tensor([[True, True], [True, False], [False, True]])
    found["available"] = masks[torch.arange(size) % 3]
    return found


def some(generator: torch.Generator, captions: int, clips: int) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities, owners, and what belongs together beyond them."""
    similarity = torch.randn(captions, clips, generator=generator, dtype=torch.float64)
    owner = torch.randint(clips, (captions,), generator=generator)
    belongs = torch.rand(captions, clips, generator=generator) < 0.2
    belongs[torch.arange(captions), owner] = True
    return similarity, owner, belongs


def test_losses_equal_loops() -> None:
    similarity, owner, belongs = some(torch.Generator().manual_seed(0), 7, 5)
    hinges: list[float] = []
    entropies: list[list[float]] = [[], []]
    for q, clip in enumerate(owner.tolist()):
        own = float(similarity[q, clip])
        negatives = (
            [float(similarity[q, v]) for v in range(5) if not belongs[q, v]],
            [float(similarity[other, clip]) for other in range(7) if not belongs[other, clip]],
        )
        for way, values in enumerate(negatives):
            hinges += [max(0.0, 0.3 + value - own) for value in values]
            entropies[way].append(math.log(sum(math.exp(value) for value in [own, *values])) - own)
    assert max_margin_loss(similarity, owner, belongs, 0.3).item() == pytest.approx(sum(hinges) / len(hinges))
    expected = sum(sum(one) / 7 for one in entropies) / 2
    assert info_nce_loss(similarity, owner, belongs).item() == pytest.approx(expected)


def test_losses_of_a_caption_per_clip_are_those_of_the_references() -> None:
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    diagonal = torch.arange(6), torch.eye(6).bool()
    terms = (0.05 - (similarity.diag().unsqueeze(1) - torch.stack([similarity, similarity.T]))).relu()
    torch.testing.assert_close(max_margin_loss(similarity, *diagonal), terms[:, ~diagonal[1]].mean())
    cross = [nn.functional.cross_entropy(one, diagonal[0]) for one in (similarity, similarity.T)]
    torch.testing.assert_close(info_nce_loss(similarity, *diagonal), torch.stack(cross).mean())


@pytest.mark.parametrize("loss", [info_nce_loss, max_margin_loss])
def test_what_belongs_together_is_no_negative(loss: Any) -> None:
    similarity, owner, belongs = some(torch.Generator().manual_seed(2), 6, 6)
    owner = torch.arange(6)  # each clip has one pair
    belongs |= torch.eye(6).bool()
    similarity.requires_grad_(True)
    loss(similarity, owner, belongs).backward()
    assert similarity.grad is not None
    assert not similarity.grad[belongs & ~torch.eye(6).bool()].any()
    assert similarity.grad[~belongs].any()
    assert loss(similarity, owner, torch.ones_like(belongs)).item() == 0


def test_ranks_of_groups_equal_a_loop() -> None:
    similarity, _, belongs = some(torch.Generator().manual_seed(3), 12, 30)
    similarity = similarity.round(decimals=1)
    belongs[4] = False  # a caption that is left out
    belongs[:, 7] = False
    ranks: dict[str, list[float]] = {"t2v": [], "v2t": []}
    for way, values, own in (
        ("t2v", similarity, belongs),
        ("v2t", similarity[belongs.any(1)].T, belongs[belongs.any(1)].T),
    ):
        for row, right in zip(values.tolist(), own.tolist()):
            if any(right):
                best = max(value for value, yes in zip(row, right) if yes)
                others = [value for value, yes in zip(row, right) if not yes]
                ranks[way].append(
                    1 + sum(value > best for value in others) + sum(value == best for value in others) / 2
                )
    found = retrieval_metrics(similarity, belongs)
    for way, own_ranks in ranks.items():
        assert found[f"{way}/mean_rank"] == pytest.approx(np.mean(own_ranks))
        assert found[f"{way}/median_rank"] == np.median(own_ranks)
        assert found[f"{way}/r5"] == pytest.approx(100 * np.mean(np.array(own_ranks) <= 5))


def test_a_table_with_one_owner_each_is_the_list_of_owners() -> None:
    similarity, owner, _ = some(torch.Generator().manual_seed(4), 20, 8)
    assert retrieval_metrics(similarity, nn.functional.one_hot(owner, 8).bool()) == retrieval_metrics(similarity, owner)
    with pytest.raises(LightningMMError, match=r"expected owner Bool\[20, 8\]"):
        retrieval_metrics(similarity, torch.ones(8, 20, dtype=torch.bool))
    with pytest.raises(LightningMMError, match="none of 20 belongs to a clip"):
        retrieval_metrics(similarity, torch.zeros(20, 8, dtype=torch.bool))


def test_a_shared_sentence_is_one_query_and_one_answer() -> None:
    one = made().eval()
    given = batch(12)
    rows = one.sample_statistics(one(given["inputs"], given["available"]), given["target"])
    numbers = given["target"]["caption"]
    first = [numbers.tolist().index(number) for number in sorted(set(numbers.tolist()))]
    similarity = expert_similarity(
        rows["texts"][first, 0].transpose(0, 1),
        rows["clips"].transpose(0, 1),
        rows["weights"][first, 0],
        rows["present"],
    )
    # clips look for one sentence each: the list of owners with the sides exchanged
    expected = retrieval_metrics(similarity.T, numbers.unique(return_inverse=True)[1])
    found = one.metrics_from(rows)
    assert list(found) == list(one.metric_directions)
    for name in ("r1", "r5", "geometric_mean"):
        assert found[f"v2t_{name}"] == pytest.approx(expected[f"t2v/{name}"] / 100)
        assert found[f"t2v_{name}"] == pytest.approx(expected[f"v2t/{name}"] / 100)
    assert found["t2v_mean_rank"] == pytest.approx(expected["v2t/mean_rank"])
    kept = one.samples_from(rows)
    assert kept["target"].tolist() == numbers.tolist()
    assert kept["prediction"].tolist() == numbers[first][similarity.argmax(0)].tolist()
    assert kept["v2t_rank"].mean().item() == pytest.approx(found["v2t_mean_rank"])
    assert (kept["v2t_rank"] == 1).tolist() == (kept["prediction"] == kept["target"]).tolist()


def test_several_captions_of_a_clip_and_captions_that_are_left_out() -> None:
    one = made(batch_norm=False).eval()
    given = batch(5)
    ids = torch.tensor([[[1, 0], [2, 3]], [[4, 0], [0, 0]], [[5, 0], [6, 0]], [[1, 0], [7, 0]], [[0, 0], [0, 0]]])
    numbers = torch.tensor([[10, 11], [12, -1], [13, 14], [10, 15], [-1, -1]])
    target = {"caption": numbers, "text": {"input_ids": ids, "attention_mask": (ids > 0).long()}}
    outputs = one(given["inputs"], given["available"])
    rows = one.sample_statistics(outputs, target)
    assert rows["texts"].shape == (5, 2, 2, 6)
    assert not rows["texts"][numbers == -1].any()
    _, belongs, found = ranking.ranked(rows)
    assert found.tolist() == [10, 11, 12, 13, 14, 15]
    assert belongs.nonzero().tolist() == [[0, 0], [0, 3], [1, 0], [2, 1], [3, 2], [4, 2], [5, 3]]
    figures = retrieval_figures(rows)
    assert figures["t2v_r50"] == figures["v2t_r50"] == 1
    assert np.isnan(one.samples_from(rows)["v2t_rank"][4].item())
    assert one.samples_from(rows)["target"].tolist() == [10, 12, 13, 10, -1]
    spoiled = ids.clone()
    spoiled[numbers == -1] = 8
    other = {**target, "text": {"input_ids": spoiled, "attention_mask": torch.ones_like(spoiled)}}
    other["text"]["attention_mask"][numbers != -1] = target["text"]["attention_mask"][numbers != -1]
    torch.testing.assert_close(one.loss(outputs, other), one.loss(outputs, target))
    nothing = {**target, "caption": torch.full_like(numbers, -1)}
    assert one.loss(outputs, nothing).item() == 0
    with pytest.raises(LightningMMError, match="no caption counts"):
        one.metrics_from(one.sample_statistics(outputs, nothing))


def test_similarities_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    one, given = made().eval(), batch(30)
    given["target"]["caption"] = torch.arange(30)  # all different
    rows = one.sample_statistics(one(given["inputs"], given["available"]), given["target"])
    expected = ranking.ranked(rows)[0]
    monkeypatch.setattr(ranking, "CHUNK", 7)
    torch.testing.assert_close(ranking.ranked(rows)[0], expected)


def test_the_metric_counts_every_clip_once_in_any_order() -> None:
    one, metric = made().eval(), RetrievalFigures()
    whole = batch(20)
    expected = one.metrics_from(one.sample_statistics(one(whole["inputs"], whole["available"]), whole["target"]))
    for start, size in ((12, 8), (0, 6), (6, 6), (3, 4)):
        part = batch(size, start)
        masks = whole["available"][start : start + size]
        metric.update(one.sample_statistics(one(part["inputs"], masks), part["target"]), part["index"])
    found = metric.compute()
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("mask_absent", "keep_absent"), [(True, False), (False, False), (False, True)])
def test_absent_experts_have_no_effect_in_evaluation(mask_absent: bool, keep_absent: bool) -> None:
    one = made(mask_absent=mask_absent, keep_absent=keep_absent).eval()
    assert_missing_invariant(one, NAMES, batch(6)["inputs"])
    given = batch(6)
    rows = one.sample_statistics(one(given["inputs"], given["available"]), given["target"])
    assert rows["present"].all() == keep_absent
    assert rows["clips"][~given["available"]].any() == keep_absent


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("objective", ["info_nce", "max_margin"])
def test_absent_experts_have_no_effect_in_training(objective: Any, adapted: bool) -> None:
    one, given = made(mask_absent=False, objective=objective), batch()
    callback = FrozenBackboneAdapter(SSF(), Additive(), exclude=["text*"])
    if adapted:
        callback.attach(one, given)
        randomise(one.adapter, scale=0.1)

    def step(poison: float | None) -> dict[str, Tensor]:
        inputs = dict(given["inputs"])
        if poison is not None:
            absent = {name: ~given["available"][:, [place]] for place, name in enumerate(NAMES)}
            inputs = {name: value.masked_fill(absent[name], poison) for name, value in inputs.items()}
        buffers = [(buffer, buffer.clone()) for buffer in one.buffers()]
        one.train()
        one.zero_grad()
        loss = one.training_step({**given, "inputs": inputs}, 0)
        loss.backward()
        found = {"loss": loss.detach()}
        found |= {name: p.grad.clone() for name, p in one.named_parameters() if p.grad is not None}
        for buffer, before in buffers:
            buffer.copy_(before)
        return found

    expected = step(None)
    assert all(value.isfinite().all() for value in expected.values())
    assert all(name == "loss" or name.startswith("adapter.") for name in expected) == adapted
    for poison in (math.nan, 1e9):
        found = step(poison)
        assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_a_fresh_adapter_is_the_base_and_texts_stay() -> None:
    one, given = made(mask_absent=False).eval(), batch()
    before = one(given["inputs"], given["available"])
    FrozenBackboneAdapter(SSF(), Additive(), exclude=["text*"]).attach(one, given)
    torch.testing.assert_close(one(given["inputs"], given["available"]), before)
    texts = one.sample_statistics(before, given["target"])["texts"]
    randomise(one.adapter, scale=0.3)
    after = one(given["inputs"], given["available"])
    assert not torch.allclose(after["clips"], before["clips"])
    complete = given["available"].all(1)
    assert torch.equal(after["clips"][complete], before["clips"][complete])
    assert torch.equal(one.sample_statistics(after, given["target"])["texts"], texts)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([1, 2]), "got a Tensor"),
        ({"caption": torch.tensor([1, 2])}, r"got a dict of \['caption'\]"),
        ({"caption": torch.tensor([1.0]), "text": ["a"]}, "got a caption torch.float32"),
        ({"caption": torch.tensor([1, -2]), "text": ["a", "b"]}, "or -1 for none, got -2"),
        (
            {"caption": torch.tensor([1, 2]), "text": {"input_ids": torch.ones(3, 2)}},
            r"expected texts \[2\].*got \[3\]",
        ),
        ({"caption": torch.tensor([1, 2]), "text": ["a"]}, r"expected texts \[2\].*got \[1\]"),
    ],
)
def test_wrong_targets(target: Any, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        made().check_target(target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "cosine"}, "objective must be one of"),
        ({"margin": -1.0}, "margin: expected 0 or more"),
        ({"primary": "r1"}, "primary must be one of"),
        ({"keep_absent": True}, "set its mask_absent to false"),
        ({"auxiliary_weight": 0.5}, "RetrievalTask has no auxiliary losses"),
        ({"distillation": {"weight": 1.0}}, "RetrievalTask has no teacher"),
    ],
)
@pytest.mark.wrong_types
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        made(**settings)


def test_networks_of_another_kind() -> None:
    with pytest.raises(LightningMMError, match="with a method encode_text"):
        RetrievalTask(nn.Linear(2, 2), NAMES)


def _loss_and_gradients(one: RetrievalTask, given: dict[str, Any]) -> list[Tensor]:
    one.train().zero_grad()
    for module in one.modules():  # its statistics are those of a process
        module.train(not isinstance(module, nn.BatchNorm1d))
    loss = one.training_step(given, 0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in one.parameters())
    return [loss.detach(), *(parameter.grad for parameter in one.parameters() if parameter.grad is not None)]


def _half(rank: int, folder: Path) -> None:
    """The steps and the metric of a rank with five or four of nine clips, one of which another rank has too."""
    one, whole = made(batch_norm=False), batch(9)
    start, stop = ((0, 5), (5, 9))[rank]
    part = {**batch(stop - start, start), "available": whole["available"][start:stop]}
    loss, *gradients = _loss_and_gradients(one, part)
    for gradient in gradients:  # as DistributedDataParallel
        torch.distributed.all_reduce(gradient)
        gradient /= 2
    one.eval()
    own = slice(0, 6) if rank == 0 else slice(5, 9)
    seen = {**batch(own.stop - own.start, own.start), "available": whole["available"][own]}
    metric = RetrievalFigures()
    with torch.no_grad():
        metric.update(one.sample_statistics(one(seen["inputs"], seen["available"]), seen["target"]), seen["index"])
    flags = gathered({"flag": torch.tensor([bool(rank)] * (1 + rank))})["flag"]
    torch.save([loss, *gradients, metric.compute(), flags], folder / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_are_one_with_all_clips(tmp_path: Path) -> None:
    run_ranks(_half, tmp_path, start="fork")
    one = made(batch_norm=False)
    expected = _loss_and_gradients(one, batch(9))
    one.eval()
    given = batch(9)
    metrics = one.metrics_from(one.sample_statistics(one(given["inputs"], given["available"]), given["target"]))
    for rank in (0, 1):
        *steps, found, flags = torch.load(tmp_path / f"{rank}.pt")
        for value, own in zip(steps, expected, strict=True):
            torch.testing.assert_close(value, own, rtol=1e-4, atol=1e-6)
        assert {name: value.item() for name, value in found.items()} == pytest.approx(metrics, rel=1e-6)
        assert flags.tolist() == [False, True, True]


def test_a_sweep_ranks_the_whole_split_and_writes_no_embeddings() -> None:
    one = made(mask_absent=False)
    data = ModalityDropoutDataModule(Clips, NAMES, batch_size=5)  # five batches: no batch has all answers
    result = sweep(one, data, bootstrap=20)
    data.setup("test")
    (given,) = ModalityDropoutDataModule(Clips, NAMES, batch_size=22).plain_dataloader("test")
    one.eval()
    for combination in ("face", "voice", "face+voice"):
        mask = Modalities(NAMES).mask(combination).repeat(22, 1)
        with torch.no_grad():
            expected = one.metrics_from(one.sample_statistics(one(given["inputs"], mask), given["target"]))
        rows = {row.metric: row for row in result.rows if row.combination == combination}
        assert {name: row.value for name, row in rows.items()} == pytest.approx(expected, rel=1e-5)
        assert all(row.low <= row.high for row in rows.values() if row.low is not None and row.high is not None)
    assert {key.rpartition("/")[2] for key in result.samples} == {
        "index",
        "observed",
        "prediction",
        "target",
        "v2t_rank",
    }
    assert (result.primary_metric, result.directions["v2t_mean_rank"]) == ("t2v_r1", "min")
