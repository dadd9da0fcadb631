"""Damaged modalities in a sweep against a slow loop; severity 0 is clean, absent samples stay absent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data import GaussianNoise, MissingPixels, ModalityDropoutDataModule
from lightning_mm.data.corrupt.base import corrupted
from lightning_mm.errors import LightningMMError
from lightning_mm.results.corruption import CorruptionResult, CorruptionRow
from lightning_mm.sweep import corruption_sweep, sweep
from tests.support.sweep_tasks import NAMES, SAMPLES, Scores, ScoresModule, VoteTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
BIAS = [0.4, -0.2, 0.3]
DAMAGES = {"rgb": [GaussianNoise(amounts=[1, 2, 3, 4, 5])], "depth": [GaussianNoise(), MissingPixels()]}


class Samples(Dataset[dict[str, Any]]):
    """The scores as samples; every third one did not observe ``depth``."""

    def __init__(self, split: str) -> None:
        generator = torch.Generator().manual_seed(5)
        self.scores = torch.randn(SAMPLES, 3, 3, generator=generator)
        self.target = torch.randint(3, (SAMPLES,), generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs: dict[str, Tensor | None] = dict(zip(NAMES, self.scores[index]))
        if index % 3 == 0:
            inputs["depth"] = None
        return {"inputs": inputs, "target": int(self.target[index])}


def module(**settings: Any) -> ModalityDropoutDataModule:
    return ModalityDropoutDataModule(Samples, NAMES, batch_size=4, seed=2, **settings)


def run(methods: Any, corruptions: Any, severities: Any = (1, 5), **settings: Any) -> CorruptionResult:
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip
    given = {"data": module(), "bootstrap": 0, **settings}
    return corruption_sweep(methods, given.pop("data"), corruptions, severities, trainer=trainer, **given)


def slow(names: list[str], bias: list[float], damage: dict[str, Any]) -> float:
    """The accuracy of the vote over the samples that observed these modalities."""
    data, right = Samples("test"), []
    for index in range(SAMPLES):
        sample = corrupted(data[index], damage, 2, index, 0)
        if all(sample["inputs"][name] is not None for name in names):
            total = sum((sample["inputs"][name] for name in names), torch.tensor(bias))
            right.append(int(total.argmax()) == sample["target"])
    return sum(right) / len(right)


def test_equals_a_slow_loop_over_samples() -> None:
    result = run(VoteTask(NAMES, bias=BIAS), DAMAGES, seed=7)
    assert result.methods == ["zero_fill", "adapted"]
    assert result.damages == [("rgb", "gaussian_noise"), ("depth", "gaussian_noise"), ("depth", "missing_pixels")]
    assert result.primary_metric == "accuracy"
    assert result.direction("error") == "min"
    for method, bias in {"zero_fill": [0.0] * 3, "adapted": BIAS}.items():
        for modality, kinds in DAMAGES.items():
            for kind in kinds:
                for severity in (1, 5):
                    found = result.figure(method, modality, kind.name, severity).value
                    assert found == pytest.approx(slow(NAMES, bias, {modality: kind.at(severity)}))
            left = [name for name in NAMES if name != modality]
            assert result.figure(method, modality, "left_out", 0).value == pytest.approx(slow(left, bias, {}))
        assert result.figure(method, "", "clean", 0).value == pytest.approx(slow(NAMES, bias, {}))
    assert {row.seed for row in result.rows} == {7}
    assert {(row.corruption, row.modality): row.n for row in result.rows if row.severity == 0} == {
        ("clean", ""): 7, ("left_out", "rgb"): 7, ("left_out", "depth"): 11,
    }  # fmt: skip
    assert {row.n for row in result.rows if row.severity} == {7}, "samples that did not observe depth do not count"
    assert len(result.rows) == 2 * 2 * (1 + 2 + 3 * 2)


def test_nothing_is_damaged_by_an_amount_of_zero_and_the_setting_of_the_data_plays_no_role() -> None:
    kinds = {"rgb": [GaussianNoise(amounts=[0.0] * 5)]}
    damaged = module(corrupt={"test": {"rgb": GaussianNoise(5)}})
    result = run(VoteTask(NAMES), kinds, [3], data=damaged)
    clean = sweep(VoteTask(NAMES), module(), bootstrap=0)
    for row in result.rows:
        if row.corruption != "left_out":
            assert row.value == clean.value("zero_fill", "rgb+depth+thermal", row.metric)


def test_several_methods_and_intervals() -> None:
    methods = {"a": VoteTask(NAMES), "b": VoteTask(NAMES, scale=[9.0, 1.0, 1.0])}
    result = run(methods, {"thermal": [MissingPixels()]}, [2], bootstrap=50)
    assert result.methods == ["a", "b"]
    row = next(row for row in result.rows if (row.severity, row.metric, row.method) == (2, "accuracy", "b"))
    assert isinstance(row, CorruptionRow)
    assert row.low is not None
    assert row.high is not None
    assert row.low <= row.value <= row.high
    assert result.figure("b", "thermal", "missing_pixels", 2).interval == (row.low, row.high)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"corruptions": {"sound": [GaussianNoise()]}}, r"unknown modality 'sound'; the data has \['rgb', 'depth'"),
        ({"corruptions": {"rgb": []}}, "expected one or more corruptions of a modality, got none"),
        ({"corruptions": {"rgb": [GaussianNoise(), GaussianNoise(1)]}}, "'gaussian_noise' of 'rgb' occurs twice"),
        ({"severities": [0, 1]}, r"severities: expected some of \[1, 2, 3, 4, 5\], got \[0, 1\]"),
        ({"severities": []}, "severities: expected some of"),
        ({"methods": {"one": VoteTask(["rgb"])}}, "method 'one' does not take all of"),
        (
            {"data": ScoresModule(Scores())},
            "expected a ModalityDropoutDataModule, which damages samples, got a ScoresModule",
        ),
    ],
)
def test_mistakes_are_explained(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(LightningMMError, match=text):
        run(**{"methods": VoteTask(NAMES), "corruptions": DAMAGES, **settings})
