"""Ranks against loops over every query, ties and captions that are left out, and the reference's similarity."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.metrics import expert_similarity, retrieval_metrics


def figures(ranks: list[float]) -> dict[str, float]:
    shares = {f"r{k}": 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10, 50)}
    mean, product = sum(ranks) / len(ranks), shares["r1"] * shares["r5"] * shares["r10"]
    return {
        **shares,
        "median_rank": statistics.median(ranks),
        "mean_rank": mean,
        "geometric_mean": product ** (1 / 3),
    }


def mean_place(values: list[float], answer: float) -> float:
    """The mean of the places, from 1, that values equal to the answer take when sorted."""
    places = [place for place, value in enumerate(sorted(values, reverse=True), 1) if value == answer]
    return sum(places) / len(places)


def slowly(similarity: Tensor, owner: Tensor) -> dict[str, float]:
    rows, clips = similarity.tolist(), owner.tolist()
    kept = [place for place, clip in enumerate(clips) if clip != -1]
    to_video = [mean_place(rows[place], rows[place][clips[place]]) for place in kept]
    to_text = []
    for clip in range(similarity.shape[1]):
        column = [rows[place][clip] for place in kept]
        own = [mean_place(column, rows[place][clip]) for place in kept if clips[place] == clip]
        if own:
            to_text.append(min(own))
    found = {"t2v": figures(to_video), "v2t": figures(to_text)}
    return {f"{way}/{name}": value for way, own in found.items() for name, value in own.items()}


@pytest.mark.parametrize("levels", [3, 1000])
def test_ranks_equal_a_loop(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    similarity = torch.randint(levels, (70, 23), generator=generator).double() / levels
    owner = torch.randint(-1, 20, (70,), generator=generator)  # three clips own no caption
    found, expected = retrieval_metrics(similarity, owner), slowly(similarity, owner)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected)


def test_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4], [0.7, 0.8, 0.6], [0.0, 0.0, 0.0]])
    found = retrieval_metrics(similarity, torch.tensor([0, 1, 1, -1]))
    assert (found["t2v/r1"], found["t2v/r5"]) == (pytest.approx(200 / 3), 100.0)
    assert (found["t2v/median_rank"], found["t2v/mean_rank"]) == (1.0, pytest.approx(4 / 3))
    assert (found["v2t/r1"], found["v2t/mean_rank"]) == (100.0, 1.0)


def test_a_constant_matrix_ranks_like_guessing() -> None:
    found = retrieval_metrics(torch.ones(40, 40), torch.arange(40))
    for way in ("t2v", "v2t"):
        assert found[f"{way}/median_rank"] == found[f"{way}/mean_rank"] == 20.5
        assert [found[f"{way}/r{k}"] for k in (1, 5, 10, 50)] == [0, 0, 0, 100]


def test_a_caption_that_is_left_out_is_no_query_and_no_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    similarity, owner = torch.randn(9, 5, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
    kept = torch.tensor([True, True, False, True, True, False, True, True, True])
    expected = retrieval_metrics(similarity[kept], owner[kept])
    similarity[~kept] = torch.nan
    assert retrieval_metrics(similarity, owner.where(kept, -1)) == expected


@pytest.mark.parametrize(
    ("similarity", "owner", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "owner of caption 1 is 3; expected a clip from 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, -2]), "owner of caption 1 is -2"),
        (torch.zeros(2, 3), torch.tensor([0, 1, 2]), r"owner Int\[2\]"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), r"owner Int\[2\]"),
        (torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1]), r"Float\[Q, V\]"),
        (torch.zeros(2, 3), torch.tensor([-1, -1]), "no caption counts"),
        (torch.full((2, 3), torch.nan), torch.tensor([0, -1]), "clip 0 is NaN"),
    ],
)
def test_errors(similarity: Tensor, owner: Tensor, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        retrieval_metrics(similarity, owner)


def test_similarity_equals_the_reference(golden_root: Path) -> None:
    data = np.load(golden_root / "h2_prompts_h4_vqa_h5_similarity.npz")
    text, video, weights, available = (
        torch.from_numpy(data[f"h5.{name}"]) for name in ("text", "video", "text_weights", "available")
    )
    found = expert_similarity(text, video, weights, available)
    torch.testing.assert_close(found, torch.from_numpy(data["h5.sims"]), rtol=1e-9, atol=1e-12)
    poisoned = video.masked_fill(~available.T.unsqueeze(2), torch.nan)
    assert torch.equal(expert_similarity(text, poisoned, weights, available), found)


def test_a_clip_without_experts_has_similarity_zero() -> None:
    text, video = torch.ones(2, 3, 4, requires_grad=True), torch.ones(2, 2, 4)
    available = torch.tensor([[True, False], [False, False]])
    found = expert_similarity(text, video, torch.ones(3, 2), available)
    assert found.tolist() == [[4, 0]] * 3
    found.sum().backward()
    assert text.grad is not None
    assert text.grad.isfinite().all()


@pytest.mark.wrong_types
def test_arrays_are_named() -> None:
    with pytest.raises(LightningMMError, match=r"expected owner as a tensor, got a ndarray; write torch\.as_tensor"):
        retrieval_metrics(torch.zeros(2, 2), np.array([0, 1]))  # type: ignore[arg-type]
