"""The task that predicts embeddings: VICReg on pairs, both stages, resume, ranks, sweep and export."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
from torchmetrics import R2Score

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Additive
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.cli.lightning.export import export_task
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.export import Runtime
from lightning_mm.missing import Complete, PairedShare, RotatingCombinations
from lightning_mm.models import EmbeddingPrediction, LateFusionClassifier, VectorEncoder
from lightning_mm.sweep import sweep
from lightning_mm.tasks import Distillation, EmbeddingPredictionTask
from lightning_mm.tasks.embedding_prediction.metric import PredictedEmbedding
from lightning_mm.tasks.embedding_prediction.vicreg import VICReg, covariance_term, variance_term
from tests.support.ranks import run_ranks

NAMES = Modalities(["audio", "video"])
WEIGHTS = [1.0, 2.0, 0.5]
UNEVEN = torch.tensor([0, 1, 1, 2, 2, 0])
"""Classes of which those of the first half weigh more than those of the second."""
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}  # fmt: skip
pytestmark = [pytest.mark.filterwarnings("ignore:The dirpath has changed from")]


class Pairs(Dataset[dict[str, Any]]):
    """Two noisy views of a class."""

    def __init__(self, split: str, size: int = 24) -> None:
        generator = torch.Generator().manual_seed(len(split))
        self.target = torch.arange(size) % 3
        clean = torch.eye(3)[self.target]
        self.inputs = {name: torch.cat([clean, torch.randn(size, 2, generator=generator)], 1) for name in NAMES}

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs = {name: values[index] for name, values in self.inputs.items()}
        return {"inputs": inputs, "target": int(self.target[index])}


def data(**settings: Any) -> ModalityDropoutDataModule:
    settings = {"train_policy": Complete(), "val_policy": RotatingCombinations(), "batch_size": 8, **settings}
    return ModalityDropoutDataModule(Pairs, list(NAMES), seed=5, **settings)


def build(**settings: Any) -> EmbeddingPredictionTask:
    torch.manual_seed(0)
    network = {key: settings.pop(key) for key in ("combine", "prompts") if key in settings}
    encoders: Any = {name: VectorEncoder(5, 8, 6, dropout=0.2) for name in NAMES}
    return EmbeddingPredictionTask(EmbeddingPrediction(encoders, 3, **network), list(NAMES), 3, **settings)


def batch(size: int = 6) -> dict[str, Any]:
    drawn = Pairs("train")
    observed = torch.ones(size, 2, dtype=torch.bool)
    return {
        "inputs": {name: values[:size].clone() for name, values in drawn.inputs.items()},
        "available": observed.clone(), "observed": observed, "target": drawn.target[:size],
        "index": torch.arange(size),
    }  # fmt: skip


def step(task: EmbeddingPredictionTask, given: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a training step without a trainer."""
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    task.zero_grad()
    torch.manual_seed(3)
    loss = task.training_step(given, 0)
    loss.backward()
    return loss.detach(), {name: one.grad.clone() for name, one in task.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("name", ["vicreg_a", "vicreg_b", "vicreg_c"])
def test_golden_vicreg(name: str, golden_root: Path) -> None:
    values = np.load(golden_root / "h1_vicreg_passion.npz")
    said = json.loads((golden_root / "h1_vicreg_passion.json").read_text())[name]
    a, b = (torch.from_numpy(values[f"{name}__z{one}"]).requires_grad_() for one in "ab")
    loss = VICReg()(a, b)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {
        "loss": loss, "inv": (a - b).square().mean(), "var_a": variance_term(a), "var_b": variance_term(b),
        "cov_a": covariance_term(a), "cov_b": covariance_term(b),
    }  # fmt: skip
    for key, value in found.items():
        assert value.item() == pytest.approx(said[key], rel=1e-9)
    for one, tensor in (("a", a), ("b", b)):
        torch.testing.assert_close(tensor.grad, torch.from_numpy(values[f"{name}__grad_z{one}"]), rtol=1e-7, atol=1e-10)


def test_vicreg_of_fewer_than_two_pairs_is_zero() -> None:
    for size in (0, 1):
        a = torch.randn(size, 4, requires_grad=True)
        loss = VICReg()(a, torch.randn(size, 4))
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss == 0
        assert a.grad is not None
        assert not a.grad.any()
    with pytest.raises(LightningMMError, match="vicreg: variance: expected 0 or more, got -1"):
        VICReg(variance=-1)


@pytest.mark.parametrize("stage", ["unimodal", "predict"])
def test_poison_changes_no_loss_and_no_gradient(stage: Any) -> None:
    given = batch()
    given["available"] = given["observed"] = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [0, 1], [1, 0]]).bool()
    poisoned = copy.deepcopy(given)
    for column, name in enumerate(NAMES):
        poisoned["inputs"][name][~given["available"][:, column]] = torch.nan
    loss, gradients = step(build(stage=stage).train(), given)
    again, others = step(build(stage=stage).train(), poisoned)
    assert loss.isfinite()
    assert torch.equal(loss, again)
    assert list(gradients) == list(others)
    assert all(torch.equal(one, others[name]) for name, one in gradients.items())
    frozen = [name for name in gradients if name.startswith("model.encoders")]
    assert bool(frozen) == (stage == "unimodal")


def test_unpaired_rows_do_not_enter_vicreg() -> None:
    task, given = build().eval(), batch()
    given["available"][3:] = torch.tensor([True, False])

    def term() -> Tensor:
        return task.agreement(task.model.embed(given["inputs"], given["available"]))

    before = term()
    given["inputs"]["audio"][3:] += 5.0
    assert torch.equal(before, term())
    assert before > 0
    given["available"][1:] = torch.tensor([True, False])
    loss, gradients = step(task.train(), given)
    assert term() == 0
    assert loss.isfinite()
    assert all(name in gradients for name, one in task.named_parameters() if one.requires_grad), "for DDP"


def test_complete_and_late_means_of_the_losses() -> None:
    task, given = build(label_smoothing=0.1, class_weights=[1.0, 2.0, 0.5]).eval(), batch()
    given["available"][0, 0] = False
    found = task.model.embed(given["inputs"], given["available"])
    logits, target = task.model.unimodal(found), given["target"]
    by_row = []
    for row in range(6):
        own = [task.loss(logits[name][row : row + 1], target[row : row + 1]) for name in NAMES.parse(
            NAMES.name(given["available"][row]))]  # fmt: skip
        by_row.append(torch.stack(own).mean())
    weights = torch.tensor([1.0, 2.0, 0.5])[target]
    expected = (torch.stack(by_row) * weights).sum() / weights.sum()
    torch.testing.assert_close(task.unimodal_loss(logits, given["available"], target), expected)


def test_losses_in_double_precision_stay_so() -> None:
    task, given = build(class_weights=[1.0, 2.0, 0.5]).train(), batch()
    single, _ = step(task, given)
    given["inputs"] = {name: value.double() for name, value in given["inputs"].items()}
    loss, _ = step(task.double(), given)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(float(single), rel=1e-5)


def test_the_metric_equals_that_of_torchmetrics() -> None:
    torch.manual_seed(0)
    real = torch.randn(40, 5) * torch.tensor([1.0, 2.0, 0.1, 3.0, 1.0]) + 4
    predicted = 0.6 * real + 0.3 * torch.randn(40, 5) + 1
    metric, reference = PredictedEmbedding(5), R2Score(multioutput="variance_weighted")
    for rows in torch.arange(40).split(7):
        metric.update(predicted[rows], real[rows])
    reference.update(predicted, real)
    found = metric.compute()
    torch.testing.assert_close(found[0], reference.compute(), rtol=1e-4, atol=1e-5)
    spread = (predicted.var(0).sum() / real.var(0).sum()).sqrt()
    torch.testing.assert_close(found[1], spread)
    nothing = PredictedEmbedding(5)
    nothing.update(torch.zeros(0, 5), torch.zeros(0, 5))
    assert nothing.compute().isnan().all()


def fit(
    task: EmbeddingPredictionTask, folder: Path, epochs: int = 3, ckpt_path: Path | None = None, **more: Any
) -> Any:
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = Trainer(default_root_dir=folder, max_epochs=epochs, callbacks=[KeyedSeed(3), saver], **QUIET)
    trainer.fit(task, data(**more), ckpt_path=ckpt_path)
    return trainer


def test_two_stages_resume_and_sweep(tmp_path: Path) -> None:
    first = build(stage="unimodal", combine="late_drop", prompts=0)
    trainer = fit(first, tmp_path / "one", epochs=2)
    assert "val/explained_variance" not in trainer.callback_metrics
    start = str(tmp_path / "one" / "epoch=1.ckpt")
    settings: dict[str, Any] = {"combine": "concat", "base_ckpt": start, "peft": "bitfit"}
    table = {"train_observed": PairedShare(0.5, block=4)}
    whole, resumed = build(**settings), build(**settings)
    encoders = copy.deepcopy(first.model.encoders.state_dict())
    assert all(torch.equal(one, encoders[name]) for name, one in whole.model.encoders.state_dict().items())
    trainer = fit(whole, tmp_path / "two", **table)
    logged = trainer.callback_metrics
    pairs = [f"val/explained_variance/{pair}" for pair in ("audio_to_video", "video_to_audio")]
    assert float(logged["val/explained_variance"]) == pytest.approx(np.mean([float(logged[one]) for one in pairs]))
    assert float(logged["val/predicted_std"]) > 0
    fit(resumed, tmp_path / "three", ckpt_path=tmp_path / "two" / "epoch=1.ckpt", **table)
    states = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(one, states[1][name]) for name, one in states[0].items())
    result = sweep({"embedding_prediction": whole}, data(), trainer=Trainer(**QUIET), bootstrap=0)
    assert {row.combination for row in result.rows} == {"audio", "video", "audio+video"}


@pytest.mark.filterwarnings("ignore:.*layers are left out of the adapter")  # predictors, as the example is complete
@pytest.mark.parametrize("stage", ["unimodal", "predict"])
def test_an_adapter_is_trained_on_the_outputs(stage: Any, tmp_path: Path) -> None:
    task = build(stage=stage)
    before = copy.deepcopy(task.model.state_dict())
    adapter = FrozenBackboneAdapter(SSF(), Additive())
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, callbacks=[adapter], enable_checkpointing=False, **QUIET)
    trainer.fit(task, data(train_policy=RotatingCombinations()))
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())
    moved = {name for name, one in task.adapter.banks.named_parameters() if bool((one.detach() != 0).any())}
    assert any(name.startswith("encoders/audio") for name in moved), moved


def test_the_tuned_part_has_a_rate_of_its_own_and_prompts_do_not_decay() -> None:
    task = build(peft="ssf", peft_lr=0.5, optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.2, weight_decay=0.3))
    optimizer: Any = task.configure_optimizers()
    found = {
        id(one): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for one in group["params"]
    }
    names = {name: found.get(id(one)) for name, one in task.named_parameters()}
    assert {value for name, value in names.items() if "encoders" in name} == {None, (0.1, 0.0)}
    assert names["model.sources.audio.reader.queries"] == (0.2, 0.0)
    assert names["model.heads.audio.weight"] == (0.2, 0.3)
    assert len(found) == sum(one.requires_grad for one in task.parameters())


def export_alone(rank: int, folder: Path) -> None:
    """Exports and runs programs; in a process of its own, as sizes that are symbols do not pass the type checks."""
    for peft in ("none", "bitfit"):
        task, path = build(peft=peft).eval(), folder / f"{peft}.ckpt"
        with torch.no_grad():
            for parameter in task.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        trainer = Trainer(default_root_dir=folder, **QUIET)
        trainer.strategy.connect(task)
        trainer.save_checkpoint(path)
        export_task(trainer, task, data(), str(folder / peft), str(path), formats=["torch"])
        runtime, given = Runtime(folder / peft), batch(4)["inputs"]
        for mask in NAMES.masks():
            with torch.no_grad():
                expected = task(given, mask.expand(4, -1))
            found = runtime({name: given[name].numpy() for name in NAMES.parse(NAMES.name(mask))})
            torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_it_is_exported_with_what_it_learned(tmp_path: Path) -> None:
    run_ranks(export_alone, tmp_path, ranks=1)


def gradients_on_rank(rank: int, folder: Path) -> None:
    """Gradients of all but VICReg, whose statistics are those of a rank."""
    task, given = build(alpha=0.0, class_weights=WEIGHTS).train(), batch(6)
    given["target"] = UNEVEN
    given["available"] = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1], [0, 1], [1, 1]]).bool()
    rows = slice(3 * rank, 3 * rank + 3)
    own = {
        "inputs": {name: value[rows] for name, value in given["inputs"].items()},
        "available": given["available"][rows], "target": given["target"][rows],
    }  # fmt: skip
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    task.forward = lambda one: task.training_step(one, 0)  # type: ignore[method-assign, assignment]
    wrapped = DistributedDataParallel(task)
    wrapped(own).backward()
    torch.save({name: one.grad for name, one in task.named_parameters() if one.requires_grad}, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_ranks_equal_one_but_for_vicreg(tmp_path: Path) -> None:
    run_ranks(gradients_on_rank, tmp_path)
    given = {**batch(6), "target": UNEVEN}
    given["available"] = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1], [0, 1], [1, 1]]).bool()
    _, alone = step(build(alpha=0.0, class_weights=WEIGHTS).train(), given)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, gradient in alone.items():
        torch.testing.assert_close(ranks[0][name], gradient, rtol=1e-5, atol=1e-7, msg=name)
        assert torch.equal(ranks[0][name], ranks[1][name])


def test_the_explained_variance_reaches_ridge_regression_in_a_linear_world() -> None:
    torch.manual_seed(0)
    size, width = 4000, 12
    x = torch.randn(2 * size, width)
    y = x @ torch.randn(width, width) / width**0.5 + 0.5 * torch.randn(2 * size, width)
    train, test = slice(size), slice(size, None)
    ridge = torch.linalg.solve(x[train].T @ x[train] + torch.eye(width), x[train].T @ y[train])
    metric, closed = PredictedEmbedding(width), PredictedEmbedding(width)
    closed.update(x[test] @ ridge, y[test])

    class Same(torch.nn.Identity):
        out_channels = width

    encoders: Any = {name: Same() for name in NAMES}
    task = EmbeddingPredictionTask(
        EmbeddingPrediction(encoders, 3), list(NAMES), 3, alpha=1.0, vicreg=VICReg(variance=0.0, covariance=0.0)
    )
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    everything = torch.ones(100, 2, dtype=torch.bool)
    for _ in range(6):
        for rows in torch.randperm(size).split(100):
            found = task.model.embed({"audio": x[rows], "video": y[rows]}, everything)
            optimizer.zero_grad()
            task.agreement(found).backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = task.model.embed({"audio": x[test], "video": y[test]})
        metric.update(task.model.predict(found.read["audio"], "audio", "video"), y[test])
    assert float(closed.compute()[0]) > 0.7
    assert float(metric.compute()[0]) > float(closed.compute()[0]) - 0.02


def test_mistakes_are_named() -> None:
    encoders: Any = {name: VectorEncoder(5) for name in NAMES}
    with pytest.raises(LightningMMError, match="EmbeddingPrediction, got a LateFusionClassifier"):
        EmbeddingPredictionTask(LateFusionClassifier(encoders, 3), list(NAMES), 3)
    for settings, message in (
        ({"alpha": -1.0}, "alpha: expected 0 or more, got -1.0"),
        ({"peft": "lora", "peft_rank": 0}, "peft_rank must be a whole number of at least 1, got 0"),
        ({"auxiliary_weight": 0.5}, "has a head for every modality; set auxiliary_weight to 0"),
        ({"distillation": Distillation(weight=1.0)}, "has no teacher"),
    ):
        with pytest.raises(LightningMMError, match=message):
            build(**settings)
