"""What a prediction costs: counted by hand on a small network, and nothing else is changed by the measurement."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_mm.results import SweepResult, merge, renamed
from lightning_mm.sweep import sweep
from lightning_mm.sweep.costs import Cost, mean_cost, measure
from tests.support.sweep_tasks import NAMES, Scores, VoteTask, loader

CPU = torch.device("cpu")


def quiet() -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("inference", [False, True])
def test_counted_by_hand(size: int, inference: bool) -> None:
    network, batch = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3)), torch.randn(size, 10)
    with torch.inference_mode(inference), torch.set_grad_enabled(False):
        cost = measure(network, partial(network, batch), size, CPU)
    assert cost is not None
    assert cost.flops == 2 * (10 * 20 + 20 * 3)
    assert cost.memory == 4 * (20 + 20), "both sides of the ReLU"
    assert 0 < cost.seconds < 1


@torch.no_grad()
def test_convolution_and_attention_are_counted_whatever_the_fast_path() -> None:
    image = torch.randn(2, 3, 8, 8)
    layer = nn.Conv2d(3, 4, 3, padding=1)
    cost = measure(layer, partial(layer, image), 2, CPU)
    assert cost is not None
    assert cost.flops == 2 * 64 * 4 * 3 * 9
    assert cost.memory == 4 * 4 * 64
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens = torch.randn(2, 5, 8)
    cost = measure(encoder, partial(encoder, tokens), 2, CPU)
    assert cost is not None
    projections, inner, attention = 4 * 5 * 8 * 8, 2 * 5 * 8 * 16, 2 * 5 * 5 * 8
    assert cost.flops == 2 * (projections + inner + attention)
    assert torch.backends.mha.get_fastpath_enabled()


def test_tensors_that_are_there_before_do_not_count() -> None:
    kept = torch.randn(2, 1000)

    def run() -> Tensor:
        kept.mul_(1.0)
        return kept[:, :10] + 1

    cost = measure(nn.Identity(), run, 2, CPU)
    assert cost is not None
    assert (cost.flops, cost.memory) == (0, 40)


def test_state_is_as_before_and_what_cannot_run_has_no_costs() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()).train()
    before, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    assert measure(network, partial(network, torch.randn(4, 3)), 4, CPU) is not None
    torch.set_rng_state(state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert measure(network, partial(network, torch.randn(4, 5)), 4, CPU) is None
    drawn = torch.get_rng_state()
    measure(network, partial(network, torch.zeros(4, 3)), 4, CPU)
    assert torch.equal(torch.get_rng_state(), drawn)


class Squared(VoteTask):
    """Multiplies the scores by a matrix: 18 operations for each of three modalities."""

    def forward(self, inputs: Any, available: Tensor) -> Tensor:
        return super().forward({name: inputs[name] @ torch.eye(3) for name in self.modalities}, available)


def swept(**methods: Any) -> SweepResult:
    return sweep(methods, loader(Scores(size=33, gaps=True), 12), trainer=quiet(), bootstrap=0)


def test_a_sweep_of_few_samples_measures_nothing() -> None:
    task = Squared(NAMES)
    result = sweep({"a": task}, loader(Scores(size=31), 31), trainer=quiet(), bootstrap=0)
    assert result.inference == result.inference_seconds == {}
    assert len(task.calls) == 7


def test_a_sweep_measures_each_method_once() -> None:
    task = Squared(NAMES, bias=[0.1, 0.2, 0.3])
    result = swept(ssf=task, dedicated=[Squared(["rgb"]), Squared(["rgb", "depth"])])
    assert set(result.inference) == set(result.inference_seconds) == {"zero_fill", "ssf", "dedicated"}
    assert {name: own["flops"] for name, own in result.inference.items()} == {
        "zero_fill": 54,
        "ssf": 54,
        "dedicated": 27,
    }
    assert all(own["memory"] > 0 for own in result.inference.values())
    assert all(value > 0 for value in result.inference_seconds.values())
    # three batches, two methods of seven combinations, and three passes of each method that are measured
    assert len(task.calls) == 3 * 2 * 7 + 2 * 3


def test_costs_of_one_prediction_do_not_add_up() -> None:
    assert mean_cost([Cost(10, 4, 1.0), Cost(20, 6, 3.0)]) == {"flops": 15, "memory": 5, "seconds": 2.0}
    one, other = swept(a=Squared(NAMES)), swept(a=Squared(NAMES))
    for row in range(len(other.rows)):
        other.rows[row] = type(other.rows[row])(**{**vars(other.rows[row]), "seed": 1})
    one.inference_seconds, other.inference_seconds = {"a": 1.0}, {"a": 3.0}
    merged = merge([one, other, renamed(one, {"a": "b"})])
    assert {name: own["flops"] for name, own in merged.inference.items()} == {"a": 54, "b": 54}
    assert merged.inference_seconds == {"a": 2.0, "b": 1.0}
