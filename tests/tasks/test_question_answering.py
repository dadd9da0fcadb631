"""Visual question answering: the reference's loss and score, soft targets, and what a wrong batch says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.models import LateFusionClassifier, TokenEncoder, VectorEncoder
from lightning_mm.tasks import VisualQuestionAnsweringTask
from lightning_mm.tasks.metrics.vqa import VqaScore, soft_target, vqa_loss, vqa_scores
from lightning_mm.testing import assert_missing_invariant


def test_loss_and_score_equal_the_reference(golden_root: Path) -> None:
    path = golden_root / "h2_prompts_h4_vqa_h5_similarity"
    data, manifest = np.load(path.with_suffix(".npz")), path.with_suffix(".json").read_text()
    logits, target = torch.from_numpy(data["h4.logits"]), torch.from_numpy(data["h4.targets"])
    facts = json.loads(manifest)["h4"]
    found = {"loss": vqa_loss(logits, target).item(), "score": vqa_scores(logits, target).mean().item()}
    assert found == pytest.approx({name: facts[name] for name in found}, rel=1e-9)
    answers = [str(label) for label in range(target.shape[1])]
    for row, votes in zip(target, facts["occurrences"]):
        given = [label for label, count in votes.items() for _ in range(count)]
        assert soft_target(given, answers).tolist() == pytest.approx(row.tolist())


@pytest.mark.parametrize(("votes", "value"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_targets(votes: int, value: float) -> None:
    given = ["red"] * votes + ["none of ours"] * (10 - votes)
    assert soft_target(given, ["blue", "red"]).tolist() == pytest.approx([0.0, value])


class Table(nn.Module):
    """Returns its own logits, whatever the input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.logits[: len(inputs["image"])] + 0 * inputs["image"].sum()


def task(logits: Tensor) -> VisualQuestionAnsweringTask:
    return VisualQuestionAnsweringTask(Table(logits), ["image"], num_classes=logits.shape[1])


def test_metrics_of_a_task() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 5.0]])
    target = torch.tensor([[0.3, 1.0, 0.0], [0.0, 0.9, 0.6], [1.0, 0.0, 0.0]])
    own = task(logits)
    outputs = own({"image": torch.zeros(3, 1)})
    statistics = own.sample_statistics(outputs, target)
    assert statistics["vqa_score"].tolist() == pytest.approx([0.3, 0.9, 0.0])
    assert statistics["prediction"].tolist() == [0, 1, 2]
    assert statistics["target"].tolist() == [1, 1, 0]
    assert own.metrics_from(statistics) == {"vqa_score": pytest.approx(0.4)}
    metric = VqaScore()
    for rows in (slice(0, 1), slice(1, 3)):
        metric.update(logits[rows], target[rows])
    assert metric.compute().item() == pytest.approx(0.4)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / 3
    torch.testing.assert_close(own.loss(outputs, target), expected)
    assert own.loss(outputs.double(), target).dtype == torch.float64


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([1, 2]), "for one right answer as a number take ClassificationTask"),
        (torch.zeros(2, 4), r"expected Float\[B, 3\]"),
        (torch.tensor([[0.0, 0.5, 1.2], [0, 0, 0]]), "got 1.2"),
        (torch.tensor([[0.0, torch.nan, 1], [0, 0, 0]]), "got nan"),
        ([0.0, 1.0], "got a list"),
    ],
)
def test_wrong_targets(target: Any, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        task(torch.zeros(2, 3)).check_target(target)


def test_outputs_of_another_width() -> None:
    own = task(torch.zeros(2, 3))
    with pytest.raises(LightningMMError, match="expected logits"):
        own.loss(torch.zeros(2, 4), torch.zeros(2, 3))


def text(rows: list[list[int]]) -> dict[str, Tensor]:
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_the_vector_of_a_text_does_not_depend_on_its_padding() -> None:
    encoder = TokenEncoder(9, out_channels=16).eval()
    alone, padded = encoder(text([[3, 4, 5]])), encoder(text([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]]))
    torch.testing.assert_close(alone[0], padded[0], rtol=1e-5, atol=1e-6)
    assert encoder(text([[0, 0, 0]])).isfinite().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.tensor([[1, 2]]), "input_ids"),
        ({"input_ids": torch.tensor([[1, 2]])}, "input_ids"),
        ({"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 2)}, "input_ids"),
        (text([[1, 9]]), "tokens from 0 to 8, got 1 to 9"),
    ],
)
def test_a_text_of_another_form(given: Any, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        TokenEncoder(9)(given)


@pytest.mark.parametrize("mask_absent", [True, False])
def test_absent_questions_and_images_have_no_effect(mask_absent: bool) -> None:
    torch.manual_seed(0)
    encoders = {"image": VectorEncoder(5), "question": TokenEncoder(9)}
    own = VisualQuestionAnsweringTask(
        LateFusionClassifier(encoders, 3, mask_absent=mask_absent), ["image", "question"], num_classes=3
    ).eval()
    inputs = {"image": torch.randn(4, 5), "question": text([[1, 2, 3], [4, 5, 0], [6, 0, 0], [7, 8, 1]])}
    assert_missing_invariant(own, ["image", "question"], inputs)
