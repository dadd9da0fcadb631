"""SingleBranchTask: its loss by rows, absent rows that do not exist, resume, ranks, extractors of another network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Additive
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.data.rows import RowBatchSampler
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Complete, RotatingCombinations
from lightning_mm.models import LateFusionClassifier, SingleBranchClassifier, VectorEncoder
from lightning_mm.sweep import sweep
from lightning_mm.tasks import ClassificationTask, SingleBranchTask
from lightning_mm.tasks.metrics.verification import verification_error
from lightning_mm.tasks.single_branch.loss import orthogonal_projection_loss
from tests.support.ranks import run_ranks

NAMES = Modalities(["audio", "video"])
WIDTHS = {"audio": 5, "video": 4}
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from")  # resumed from another folder


def encoders() -> dict[str, nn.Module]:
    return {name: VectorEncoder(width, 8, 8, depth=1) for name, width in WIDTHS.items()}


def build(norm: Any = "batch", weight: float = 1.0, dropout: float = 0.0, **settings: Any) -> SingleBranchTask:
    torch.manual_seed(0)
    network = SingleBranchClassifier(encoders(), 3, embedding=16, dropout=dropout, norm=norm)
    return SingleBranchTask(network, list(NAMES), 3, orthogonal_weight=weight, **settings)


def batch(size: int = 8, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    masks = NAMES.masks()[torch.arange(size) % 3]
    return {
        "inputs": {name: torch.randn(size, width, generator=generator) for name, width in WIDTHS.items()},
        "available": masks, "observed": masks, "target": torch.arange(size) % 3, "index": torch.arange(size),
    }  # fmt: skip


@pytest.mark.parametrize("labels", ["mixed", "all_distinct", "all_same"])
def test_orthogonal_projection_is_that_of_the_official_code(golden_root: Path, labels: str) -> None:
    with np.load(golden_root / "d1_opl.npz") as data:
        features = torch.from_numpy(data["features"]).requires_grad_()
        loss = orthogonal_projection_loss(features, torch.from_numpy(data[f"{labels}__labels"]))
        expected, gradient = data[f"{labels}__loss_pos_neg"], torch.from_numpy(data[f"{labels}__grad"])
    assert loss.item() == pytest.approx(expected[0], rel=1e-4)
    assert loss.item() == pytest.approx(1 - expected[1] + 0.7 * expected[2], rel=1e-4)
    (found,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


def test_orthogonal_projection_equals_a_loop_over_pairs() -> None:
    features, target = torch.randn(7, 4), torch.tensor([0, 1, 0, 2, 1, 0, 2])
    same, other = [], []
    for i in range(7):
        for j in range(7):
            cosine = F.cosine_similarity(features[i], features[j], dim=0)
            if i != j and target[i] == target[j]:
                same.append(cosine)
            elif target[i] != target[j]:
                other.append(cosine.abs())
    expected = 1 - torch.stack(same).mean() + 0.5 * torch.stack(other).mean()
    torch.testing.assert_close(orthogonal_projection_loss(features, target, 0.5), expected)
    assert orthogonal_projection_loss(features[:1], target[:1]).item() == 1.0


def silent(task: SingleBranchTask) -> SingleBranchTask:
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return task


def test_the_loss_is_that_of_every_row_that_is_present() -> None:
    task, given = silent(build("layer", 0.3).train()), batch()
    rows, labels = [], []
    for column, name in enumerate(NAMES):
        for sample in given["available"][:, column].nonzero()[:, 0].tolist():
            rows.append(task.network.encoders[name](given["inputs"][name][sample : sample + 1]))  # no alignment here
            labels.append(given["target"][sample])
    embeddings = task.network.embed(torch.cat(rows), [len(rows)])
    target = torch.stack(labels)
    expected = F.cross_entropy(task.network.head(embeddings), target)
    expected = expected + 0.3 * orthogonal_projection_loss(embeddings, target)
    torch.testing.assert_close(task.training_step(given, 0), expected)


def step(task: SingleBranchTask, given: dict[str, Any]) -> dict[str, Tensor]:
    """Loss, gradients, statistics and outputs of a training step."""
    task.train().zero_grad()
    torch.manual_seed(5)
    loss = task.training_step(given, 0)
    loss.backward()
    found = {"loss": loss.detach(), **{name: one.clone() for name, one in task.named_buffers()}}
    found |= {f"gradient of {name}": p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    with torch.no_grad():
        found["outputs"] = task.eval()(given["inputs"], given["available"])
    return found


@pytest.mark.parametrize("norm", ["batch", "batch_per_modality", "layer"])
@pytest.mark.parametrize("poison", [math.nan, 1e9])
def test_poison_changes_no_bit_in_training_and_evaluation(norm: Any, poison: float) -> None:
    given = batch()
    spoiled = {
        name: torch.where(given["available"][:, k : k + 1], value, poison)
        for k, (name, value) in enumerate(given["inputs"].items())
    }
    expected = step(silent(build(norm, dropout=0.3)), given)
    found = step(silent(build(norm, dropout=0.3)), {**given, "inputs": dict(reversed(spoiled.items()))})
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    assert all(value.isfinite().all() for value in found.values())


class Files(Dataset[Any]):
    """Samples whose values lie in files; what the table hides is never opened."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self.present = np.random.default_rng(3).random((20, 2)) < 0.7
        self.present[:, 0] |= ~self.present.any(1)

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, index: int) -> dict[str, Any]:
        def value(column: int, name: str) -> Tensor | None:
            hidden = self.split == "train" and not self.present[index, column]
            return None if hidden else torch.load(self.folder / f"{name}{index}.pt")

        return {"inputs": {name: value(m, name) for m, name in enumerate(NAMES)}, "target": index % 3}


def write(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name, width in WIDTHS.items():
        for index in range(20):
            torch.save(torch.randn(width, generator=generator) + index % 3, folder / f"{name}{index}.pt")
    return folder


def data(folder: Path, **settings: Any) -> ModalityDropoutDataModule:
    given: dict[str, Any] = {"train_policy": Complete(), "switching": "random", "batch_size": 7, "seed": 2, **settings}
    return ModalityDropoutDataModule(
        lambda split: Files(folder, split), list(NAMES), val_policy=RotatingCombinations(), **given
    )


def trainer(folder: Path, epochs: int = 3, *callbacks: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, max_epochs=epochs, callbacks=[KeyedSeed(3), *callbacks], accelerator="cpu", devices=1,
        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
    )  # fmt: skip


@pytest.mark.parametrize("switching", ["random", pytest.param("half_epoch", marks=pytest.mark.slow)])
def test_a_fit_that_is_resumed_at_an_epoch_equals_the_uninterrupted_one(tmp_path: Path, switching: str) -> None:
    write(tmp_path)
    whole, resumed = build(dropout=0.3), build(dropout=0.3)
    saved = ModelCheckpoint(tmp_path / "whole", filename="{epoch}", save_top_k=-1)
    trainer(tmp_path, 3, saved).fit(whole, data(tmp_path, switching=switching))
    torch.manual_seed(77)
    other = ModelCheckpoint(tmp_path / "resumed")
    start = tmp_path / "whole" / "epoch=0.ckpt"
    trainer(tmp_path, 3, other).fit(resumed, data(tmp_path, switching=switching), ckpt_path=start)
    expected, found = whole.state_dict(), resumed.state_dict()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert any(not torch.equal(value, expected[key]) for key, value in build(dropout=0.3).state_dict().items())


def test_hidden_files_are_not_opened_and_measures_are_logged(tmp_path: Path) -> None:
    write(tmp_path)
    training = Files(tmp_path, "train")
    fitted = trainer(tmp_path, 2)
    task = build(norm_gap=True, verification=True)
    kept = {name: torch.stack([torch.load(tmp_path / f"{name}{i}.pt") for i in range(20)]) for name in NAMES}
    hidden = np.argwhere(~training.present).tolist()
    assert hidden
    module = data(tmp_path)
    module.setup("fit")
    for index, column in hidden:
        (tmp_path / f"{NAMES[column]}{index}.pt").unlink()
    fitted.fit(task, module.train_dataloader(), module.train_dataloader())
    assert {"train/loss", "train/orthogonal_loss"} <= set(fitted.logged_metrics)
    write(tmp_path)
    (logged,) = trainer(tmp_path).validate(task, data(tmp_path), verbose=False)
    assert {"val/norm_gap/audio", "val/norm_gap/video", "val/accuracy"} <= set(logged)
    (logged,) = trainer(tmp_path).test(task, data(tmp_path), verbose=False)
    task.eval()
    rows = task.network.rows(kept)
    expected = verification_error(rows.embeddings[:20], rows.embeddings[20:], *[torch.arange(20) % 3] * 2)
    assert logged["test/equal_error_rate/audio+video"] == pytest.approx(expected, abs=1e-6)
    result = sweep({"single_branch": task}, data(tmp_path), modalities=list(NAMES), bootstrap=0)
    accuracy = {row.combination: row.value for row in result.rows if row.metric == "accuracy"}
    for combination in NAMES.combinations():
        logits = task(kept, NAMES.mask(combination).expand(20, -1))
        assert accuracy[combination] == pytest.approx((logits.argmax(1) == torch.arange(20) % 3).float().mean().item())


def test_the_norm_gap_is_that_of_the_rows_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a process has no row of a modality, so that it must not wait for others in the middle."""
    task, module = build(norm_gap=True), data(write(tmp_path), switching=None)
    with monkeypatch.context() as patch:
        patch.setattr(task, "all_gather", lambda own: torch.stack([own, torch.zeros_like(own)]))
        (logged,) = trainer(tmp_path).validate(task, module, verbose=False)
    gained, count = torch.zeros(2), torch.zeros(2)
    for given in module.val_dataloader():
        running, fresh = (task.eval()._rows(given, fresh) for fresh in (False, True))
        target = given["target"][running.sample]
        right = [(rows.logits.argmax(1) == target).float() for rows in (fresh, running)]
        gained.index_add_(0, running.modality, right[0] - right[1])
        count.index_add_(0, running.modality, torch.ones(len(target)))
    assert [logged[f"val/norm_gap/{name}"] for name in NAMES] == pytest.approx((gained / count).tolist())
    assert gained.any()


def test_extractors_start_with_the_encoders_of_another_network(tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = ClassificationTask(LateFusionClassifier(encoders(), 3), list(NAMES), 3, auxiliary_weight=0.5)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "base.ckpt")
    task = build(base_ckpt=str(tmp_path / "base.ckpt"))
    expected = other.model.encoders.state_dict()  # type: ignore[union-attr,operator]
    assert all(torch.equal(value, expected[key]) for key, value in task.network.encoders.state_dict().items())
    assert torch.equal(task.network.head.weight, build().network.head.weight)
    with torch.no_grad():
        task.network.head.weight.zero_()
    torch.save({"state_dict": task.state_dict()}, tmp_path / "own.ckpt")
    assert build(base_ckpt=str(tmp_path / "own.ckpt")).network.head.weight.eq(0).all()
    torch.save({"state_dict": {"model.head.weight": torch.zeros(3, 8)}}, tmp_path / "strange.ckpt")
    with pytest.raises(LightningMMError, match=r"strange\.ckpt holds another network"):
        build(base_ckpt=str(tmp_path / "strange.ckpt"))


def test_an_adapter_is_trained_on_the_fused_logits(tmp_path: Path) -> None:
    write(tmp_path)
    base = build("batch_per_modality")
    before = {key: value.clone() for key, value in base.network.state_dict().items()}
    hook = FrozenBackboneAdapter(SSF(), Additive())
    trainer(tmp_path, 2, hook).fit(base, data(tmp_path, switching=None))
    assert all(torch.equal(value, before[key]) for key, value in base.network.state_dict().items())
    assert any(float(parameter.detach().abs().sum()) > 0 for parameter in base.adapter.banks.parameters())


class Step(nn.Module):
    """A training step as a forward, for DDP."""

    def __init__(self, task: SingleBranchTask) -> None:
        super().__init__()
        self.task = silent(task).train()

    def forward(self, given: dict[str, Any]) -> Tensor:
        return self.task.training_step(given, 0)


def _rows(switching: Any, size: int, place: tuple[int, int]) -> list[dict[str, Any]]:
    """The first two batches of rows of a rank."""
    whole, present = batch(12), np.ones((12, 2), dtype=bool)
    sampler = RowBatchSampler(present, switching, size, seed=1, place=place)
    return [
        {
            "inputs": {name: value[[i for i, _, _ in keys]] for name, value in whole["inputs"].items()},
            "available": F.one_hot(torch.tensor([column for _, _, column in keys]), 2).bool(),
            "target": whole["target"][[i for i, _, _ in keys]],
        }
        for keys in list(sampler)[:2]
    ]


def _uneven(size: int, place: tuple[int, int]) -> list[dict[str, Any]]:
    """Batches of samples, of which the first rank has more modalities than the second."""
    given = batch(size * place[1])
    given["available"] = NAMES.masks(["audio+video"] * 3 + ["audio"] * 2 + ["video"])
    rows = slice(size * place[0], size * place[0] + size)
    own = {name: given[name][rows] for name in ("available", "target")}
    return [{**own, "inputs": {name: value[rows] for name, value in given["inputs"].items()}}] * 2


def _batches(switching: str, size: int, place: tuple[int, int]) -> list[dict[str, Any]]:
    return _uneven(size, place) if switching == "none" else _rows(switching, size, place)


def _gradients(rank: int, folder: Path) -> None:
    found = {}
    for switching in ("random", "half_epoch", "none"):
        parallel = nn.parallel.DistributedDataParallel(Step(build("layer", 0.0)))
        for each in _batches(switching, 3, (rank, 2)):  # a second step would fail if a parameter had not been used
            parallel.zero_grad()
            parallel(each).backward()
        found[switching] = {name: p.grad for name, p in parallel.module.named_parameters()}
    if rank == 0:
        torch.save(found, folder / "gradients.pt")


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Of all that is no statistic of a batch: with LayerNorm and without the pairs of the orthogonal projection."""
    run_ranks(_gradients, tmp_path)
    for switching, found in torch.load(tmp_path / "gradients.pt").items():
        one = Step(build("layer", 0.0))
        for each in _batches(switching, 6, (0, 1)):
            one.zero_grad()
            one(each).backward()
        for name, parameter in one.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.wrong_types
def test_mistakes_are_named() -> None:
    with pytest.raises(LightningMMError, match="orthogonal_weight: expected 0 or more, got -1"):
        build(weight=-1)
    with pytest.raises(
        LightningMMError, match="expected a SingleBranchClassifier, whose rows it trains, got LateFusion"
    ):
        SingleBranchTask(LateFusionClassifier(encoders(), 3), list(NAMES), 3)
    with pytest.raises(LightningMMError, match="SingleBranchTask trains every modality by itself already"):
        build(auxiliary_weight=0.5)
