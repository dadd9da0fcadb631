"""The sentiment task: the reference numbers, slow loops and torchmetrics, training, absence, mistakes, the sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.functional import pearson_corrcoef
from torchmetrics.functional.classification import multiclass_f1_score

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.sweep import sweep
from lightning_mm.tasks import SentimentTask
from lightning_mm.tasks.metrics.sentiment import (
    Pearson,
    binary_metrics,
    pearson,
    polarity,
    polarity_metrics,
    rounded,
    sentiment_metrics,
)
from lightning_mm.testing import assert_missing_invariant
from tests.support.operations import Operations

WIDTHS = {"text": 4, "audio": 3}
NAMES = Modalities(WIDTHS)
SAMPLES = 23


class Linears(nn.Module):
    """One linear layer per modality, summed."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.outputs = outputs
        self.parts = nn.ModuleDict({name: nn.Linear(width, max(outputs, 1)) for name, width in WIDTHS.items()})

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        total = torch.stack([self.parts[name](inputs[name]) for name in WIDTHS]).sum(0)
        return total if self.outputs else total[:, 0]


def build(labels: Any = "regression", outputs: int = 1, **settings: Any) -> SentimentTask:
    torch.manual_seed(0)
    return SentimentTask(Linears(outputs), list(WIDTHS), labels, **settings)


def samples(labels: str, poison: float | None = None) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index in range(SAMPLES):
        value = float(round(torch.randn((), generator=generator).mul(1.5).clamp(-3, 3).item() * 5) / 5)
        value = 0.0 if index % 7 == 0 else value
        present = NAMES.masks()[index % 3]
        inputs = {name: value + 0.3 * torch.randn(width, generator=generator) for name, width in WIDTHS.items()}
        for column, name in enumerate(WIDTHS):
            if poison is not None and not present[column]:
                inputs[name] = torch.full_like(inputs[name], poison)
        target = torch.tensor(value) if labels == "regression" else torch.tensor(int(value > 0))
        observed = torch.ones(2, dtype=torch.bool)
        rows.append({"inputs": inputs, "available": present, "observed": observed, "target": target, "index": index})
    return rows


def loader(labels: str = "regression", poison: float | None = None) -> DataLoader[Any]:
    return DataLoader(samples(labels, poison), batch_size=8)  # type: ignore[arg-type]


def trainer(**settings: Any) -> Trainer:
    plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**plain, **settings})


def drawn(count: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = (torch.randn(count, generator=generator) * 7).round().clamp(-15, 15) / 5
    prediction = (0.7 * target + torch.randn(count, generator=generator)).mul(2).round() / 2
    return prediction, target


# metrics


@pytest.fixture(scope="module")
def golden(golden_root: Path) -> dict[str, Tensor]:
    with np.load(golden_root / "c1_sentiment_metrics.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


@pytest.mark.parametrize("kind", ["pred", "pred_const"])
def test_the_reference_numbers(golden: dict[str, Tensor], kind: str) -> None:
    prediction, truth = golden[kind], golden["truth"]
    metrics = sentiment_metrics(prediction, truth)
    # The reference calls "not positive" what MMSA calls "negative", and weights F1 by what is predicted.
    for zeros, convention in {"False": "positive", "True": "non0"}.items():
        expected = golden[f"result{kind.removeprefix('pred')}__exclude_zero_{zeros}"].tolist()
        mae, correlation, acc7, acc5, f1, acc2 = expected
        assert metrics["mae"] == pytest.approx(mae, rel=1e-5)
        assert metrics["pearson"] == pytest.approx(correlation, rel=1e-5, nan_ok=True)
        assert (metrics["acc7"], metrics["acc5"]) == pytest.approx((acc7, acc5), rel=1e-9)
        accuracy, swapped = polarity_metrics(prediction, truth, convention, swapped=True)  # type: ignore[arg-type]
        assert (accuracy, swapped) == pytest.approx((acc2, f1), rel=1e-9)
    assert (metrics["acc2_non0"], metrics["f1_non0_swapped"]) == pytest.approx((acc2, f1), rel=1e-9)


def test_the_reference_numbers_of_multibench_and_of_classes(golden: dict[str, Tensor]) -> None:
    accuracies = [polarity_metrics(golden["pred"], golden["truth"], one)[0] for one in ("non0", "positive")]  # type: ignore[arg-type]
    assert accuracies == pytest.approx(golden["multibench_eval_affect"].tolist(), rel=1e-9)
    emotions = golden["iemocap_pred"].view(-1, 4, 2).argmax(-1)
    for column in range(4):
        accuracy, f1 = binary_metrics(emotions[:, column], golden["iemocap_truth"][:, column])
        assert [f1, accuracy] == pytest.approx(golden["iemocap_f1_acc"][column].tolist(), rel=1e-9)


def test_metrics_against_slow_loops() -> None:
    prediction, target = drawn()
    pairs = list(zip(prediction.tolist(), target.tolist()))
    metrics = sentiment_metrics(prediction, target)
    assert metrics["mae"] == pytest.approx(sum(abs(p - t) for p, t in pairs) / len(pairs))
    for metric, limit in {"acc7": 3, "acc5": 2}.items():  # Python's round is to even too
        same = [round(min(max(p, -limit), limit)) == round(min(max(t, -limit), limit)) for p, t in pairs]
        assert metrics[metric] == pytest.approx(sum(same) / len(same))
    has0 = [(p >= 0, t >= 0) for p, t in pairs]
    non0 = [(p > 0, t > 0) for p, t in pairs if t != 0]
    assert 0 < len(non0) < len(has0)
    for name, signs in {"has0": has0, "non0": non0}.items():
        assert metrics[f"acc2_{name}"] == pytest.approx(sum(p == t for p, t in signs) / len(signs))
        p, t = (torch.tensor(column).long() for column in zip(*signs))
        assert metrics[f"f1_{name}"] == pytest.approx(multiclass_f1_score(p, t, 2, average="weighted").item(), rel=1e-6)
        swapped = polarity_metrics(prediction, target, name, swapped=True)[1]  # type: ignore[arg-type]
        assert swapped == pytest.approx(multiclass_f1_score(t, p, 2, average="weighted").item(), rel=1e-6)
        assert swapped != metrics[f"f1_{name}"]
    assert metrics["f1_non0_swapped"] == swapped
    assert metrics["pearson"] == pytest.approx(pearson_corrcoef(prediction, target).item(), rel=1e-5)


def test_halves_round_to_even_and_labels_outside_are_clipped() -> None:
    values = torch.tensor([-3.6, -2.5, -0.5, 0.5, 1.5, 2.5, 9.0])
    assert rounded(values, 3).tolist() == [-3, -2, 0, 0, 2, 2, 3]
    assert rounded(values, 2).tolist() == [-2, -2, 0, 0, 2, 2, 2]


def test_a_zero_is_of_the_class_that_the_convention_says() -> None:
    zero = torch.zeros(1)
    assert polarity(zero, zero, "has0") == (torch.tensor([1]), torch.tensor([1]))
    assert polarity(zero, zero, "positive") == (torch.tensor([0]), torch.tensor([0]))
    assert polarity(zero, zero, "non0")[0].numel() == 0
    assert all(math.isnan(value) for value in polarity_metrics(zero, zero, "non0"))


def test_constant_predictions_have_no_correlation_in_one_batch_or_in_many() -> None:
    target = torch.linspace(-2, 2, 21)
    constant = torch.full((21,), 0.1)
    assert math.isnan(pearson(constant, target))
    assert math.isnan(pearson(target, constant))
    assert math.isnan(pearson(target[:1], target[:1]))
    metric = Pearson()
    for rows in target.split(4):
        metric.update(torch.full_like(rows, 0.1), rows)
    assert metric.compute().isnan()


def test_the_bootstrap_loops_over_no_samples() -> None:
    def operations(count: int) -> int:
        prediction, target = drawn(count)
        with Operations() as seen:
            sentiment_metrics(prediction, target)
        return seen.count

    assert operations(40) == operations(4000)
    assert 0 < operations(400) < 100


# the task

KINDS = [("regression", 1), ("regression", 0), ("binary", 0), ("binary", 1), ("binary", 2)]


@pytest.mark.parametrize(("labels", "outputs"), KINDS)
def test_logged_metrics_are_those_of_the_sample_statistics(labels: str, outputs: int) -> None:
    task, data = build(labels, outputs), loader(labels)
    (logged,) = trainer().test(task, data, verbose=False)
    parts = [task.sample_statistics(task(b["inputs"], b["available"]), b["target"]) for b in data]
    metrics = task.metrics_from({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    assert set(metrics) == set(task.metric_directions)
    assert {f"test/{name}" for name in metrics} | {"test/loss"} == set(logged)
    for name, value in metrics.items():
        assert logged[f"test/{name}"] == pytest.approx(value, rel=1e-5), name
    assert task.primary_metric == ("mae" if labels == "regression" else "acc2")
    assert task.metric_directions[task.primary_metric] == ("min" if labels == "regression" else "max")


@pytest.mark.parametrize("labels", ["regression", "binary"])
def test_the_sweep_gives_the_metrics_of_test_runs_with_intervals(labels: str) -> None:
    task = build(labels)
    result = sweep(task, loader(labels), trainer=trainer(), bootstrap=50)
    for combination in NAMES.combinations():
        rows = [{**row, "available": NAMES.mask(combination)} for row in samples(labels)]
        (logged,) = trainer().test(task, DataLoader(rows, batch_size=8), verbose=False)  # type: ignore[arg-type]
        for metric in task.metric_directions:
            assert result.value("zero_fill", combination, metric) == pytest.approx(logged[f"test/{metric}"], rel=1e-5)
    assert all(row.low is not None and row.low <= row.value <= row.high for row in result.rows)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("labels", "loss"), [("regression", "l1"), ("regression", "mse"), ("binary", "bce"), ("binary", None)]
)
def test_fit_learns_the_signal_and_nothing_in_absent_places_matters(labels: str, loss: Any) -> None:
    found = []
    for poison in (None, math.nan):
        task = build(labels, loss=loss, optimizer=lambda p: torch.optim.AdamW(p, lr=0.05))
        (before,) = trainer().validate(task, loader(labels), verbose=False)
        runner = trainer(max_epochs=2)
        runner.fit(task, loader(labels, poison), loader(labels, poison))
        metrics = {name: value.item() for name, value in runner.logged_metrics.items()}
        found.append((metrics, {name: value.clone() for name, value in task.state_dict().items()}))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[1][1][name], value) for name, value in found[0][1].items())
    assert found[0][0]["val/loss"] < before["val/loss"]


@pytest.mark.parametrize(("labels", "outputs"), KINDS)
def test_absent_places_leave_outputs_and_gradients_bit_identical(labels: str, outputs: int) -> None:
    assert_missing_invariant(build(labels, outputs), NAMES, next(iter(loader(labels)))["inputs"])


def test_losses_are_those_of_torch() -> None:
    outputs, target = torch.randn(6, 1), torch.randn(6).clamp(-3, 3)
    torch.testing.assert_close(build().loss(outputs, target), F.l1_loss(outputs[:, 0], target))
    torch.testing.assert_close(build(loss="mse").loss(outputs[:, 0], target), F.mse_loss(outputs[:, 0], target))
    classes, pair = torch.tensor([0, 1, 1, 0, 1, 0]), torch.randn(6, 2)
    expected = F.binary_cross_entropy_with_logits(outputs[:, 0], classes.float())
    torch.testing.assert_close(build("binary").loss(outputs, classes), expected)
    torch.testing.assert_close(build("binary").loss(pair, classes), F.cross_entropy(pair, classes))


@pytest.mark.parametrize(
    ("labels", "target", "message"),
    [
        (
            "regression",
            torch.tensor([0.0, 3.5]),
            r"expected Float\[B\] in \[-3, 3\], got \[3.5\]; set labels to binary",
        ),
        ("regression", torch.tensor([0.0, math.nan]), r"got \[nan\]"),
        ("regression", torch.tensor([0, 1]), r"expected Float\[B\] in \[-3, 3\], got torch.int64 \(2,\)"),
        ("regression", torch.zeros(2, 1), r"got torch.float32 \(2, 1\)"),
        ("binary", torch.tensor([0, 2]), r"expected Int64\[B\] of 0 and 1, got \[2\]; set labels to regression"),
        ("binary", torch.tensor([0.0, 1.0]), "got torch.float32"),
    ],
)
def test_wrong_labels_are_named(labels: str, target: Tensor, message: str) -> None:
    task, inputs = build(labels), {name: torch.zeros(2, width) for name, width in WIDTHS.items()}
    with pytest.raises(LightningMMError, match=message):
        task.sample_statistics(task(inputs), target)
    present = torch.ones(2, 2, dtype=torch.bool)
    batch = {"inputs": inputs, "available": present, "observed": present, "target": target, "index": torch.arange(2)}
    with pytest.raises(LightningMMError, match=message):
        trainer(max_epochs=1).fit(task, DataLoader([batch], batch_size=None), loader(labels))  # type: ignore[arg-type]


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "stars"}, r"labels must be one of \['regression', 'binary'\], got 'stars'"),
        ({"loss": "bce"}, r"loss of regression labels must be one of \['l1', 'mse'\], got 'bce'"),
        ({"labels": "binary", "loss": "l1"}, r"loss of binary labels must be one of \['bce'\], got 'l1'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build(**settings)


def test_outputs_of_another_shape_are_named() -> None:
    with pytest.raises(LightningMMError, match=r"expected outputs \[B\] or \[B, 1\], got \(4, 2\)"):
        build().loss(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(LightningMMError, match=r"expected outputs \[B\], \[B, 1\] or \[B, 2\], got \(4, 3\)"):
        build("binary").predictions(torch.zeros(4, 3))
