"""Only what the patterns name is trained: the rest keeps its parameters, its running statistics and its eval mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.callbacks import KeyedSeed, TrainOnly
from lightning_mm.data import Collate
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.tasks import SemanticSegmentationTask
from tests.support.cli_network import TinyNetwork
from tests.support.their_module import Clean, Fusion, Theirs, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


class Deep(Fusion):
    """A norm without weights at the top, and a head with a norm and a dropout of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.BatchNorm1d(8, affine=False)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))  # type: ignore[assignment]

    def forward(self, image: Tensor, echo: Tensor) -> Tensor:
        out: Tensor = self.head(self.top(self.camera(image) + self.radar(echo)))
        return out


class Watched(Theirs):
    """Puts itself into train mode at odd moments, and notes which parts are in train mode when it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Deep()  # type: ignore[assignment]
        self.beside = nn.BatchNorm1d(3)
        self.seen: set[str] = set()

    def on_train_epoch_start(self) -> None:
        self.train()

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        self.seen = {name for name, part in self.named_modules() if part.training}
        self.beside(batch[1])
        return super().training_step(batch, batch_idx)


def module(seed: int = 0) -> Watched:
    torch.manual_seed(seed)
    made = Watched()
    for _ in range(3):
        made.net(torch.randn(16, 6), torch.randn(16, 3))
    return made


def loader() -> DataLoader[Any]:
    return DataLoader(Clean(), batch_size=8)


def moved(after: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, value in after.state_dict().items() if not torch.equal(value, before[key])}


def test_only_the_head_of_somebody_elses_module_moves(tmp_path: Path) -> None:
    theirs, before = module(), module().state_dict()
    run = trainer(tmp_path, [TrainOnly(["head*"], network="net")], epochs=3)
    run.fit(theirs, loader(), loader())
    trained = {f"net.head.{part}.{kind}" for part in (0, 1, 3) for kind in ("weight", "bias")}
    statistics = {f"net.head.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert moved(theirs, before) == trained | statistics
    assert {name for name, parameter in theirs.named_parameters() if parameter.requires_grad} == trained
    assert theirs.seen == {"", "net.head", *(f"net.head.{part}" for part in range(4))}


def test_a_part_that_is_trained_in_part_keeps_its_statistics(tmp_path: Path) -> None:
    theirs, before = module(), module().state_dict()
    patterns = ["head.0.*", "camera.1.weight"]
    trainer(tmp_path, [TrainOnly(patterns, network="net")]).fit(theirs, loader(), loader())
    assert moved(theirs, before) == {"net.head.0.weight", "net.head.0.bias", "net.camera.1.weight"}
    assert theirs.seen == {"", "net.head.0"}


def test_checkpoints_hold_the_whole_network_and_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    def callbacks(*more: Any) -> list[Any]:
        return [TrainOnly(["head*"], network="net"), KeyedSeed(3), *more]

    whole, before = module(), module().state_dict()
    trainer(tmp_path / "whole", callbacks(), epochs=4).fit(whole, loader(), loader())
    saver = ModelCheckpoint(tmp_path / "first", save_last=True)
    trainer(tmp_path / "first", callbacks(saver), epochs=2).fit(module(), loader(), loader())
    assert set(torch.load(saver.last_model_path, weights_only=True)["state_dict"]) == set(before)
    resumed = module(seed=9)
    torch.manual_seed(99)
    trainer(tmp_path / "second", callbacks(), epochs=4).fit(
        resumed, loader(), loader(), ckpt_path=saver.last_model_path
    )
    assert moved(resumed, whole.state_dict()) == set()
    assert all(key.startswith("net.head") for key in moved(resumed, before))


def test_the_head_of_a_task_with_a_trained_base(tmp_path: Path) -> None:
    modalities = Modalities(["rgb", "depth"])
    torch.manual_seed(0)
    samples = [
        {
            "inputs": {"rgb": torch.randn(3, 8, 8), "depth": torch.randn(1, 8, 8)},
            "target": torch.randint(0, 3, (8, 8)),
            "index": i,
        }
        for i in range(8)
    ]
    base = TinyNetwork({"rgb": 3, "depth": 1}, 3)
    torch.save(base.state_dict(), tmp_path / "base.pt")
    network = TinyNetwork({"rgb": 3, "depth": 1}, 3)
    task = SemanticSegmentationTask(network, list(modalities), 3, base_ckpt=str(tmp_path / "base.pt"))
    data = DataLoader(samples, batch_size=4, collate_fn=Collate(modalities))  # type: ignore[arg-type]
    run = trainer(tmp_path, [TrainOnly(["head*"])])
    run.fit(task, data, data)
    assert moved(network, base.state_dict()) == {"head.weight", "head.bias"}
    groups = [parameter for group in run.optimizers[0].param_groups for parameter in group["params"]]
    assert {id(one) for one in groups} == {id(one) for one in network.head.parameters()}


class Late(Theirs):
    """Makes its network late."""

    def __init__(self) -> None:
        super().__init__()
        self.net = None  # type: ignore[assignment]

    def configure_model(self) -> None:
        if self.net is None:
            self.net = Fusion()


def test_a_network_that_is_made_late(tmp_path: Path) -> None:
    theirs = Late()
    trainer(tmp_path, [TrainOnly(["head.bias"], network="net")], epochs=1).fit(theirs, loader())
    assert [name for name, parameter in theirs.named_parameters() if parameter.requires_grad] == ["net.head.bias"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patterns": ["haed*"]}, r"no parameter of Deep is called 'haed\*'; close names: \['head'"),
        ({"patterns": ["head*", "head.3"]}, r"'head\.3' is a part of it: write 'head\.3\.\*'"),
        ({"patterns": ["xyz"]}, r"its parts are \['camera', 'head', 'radar'\]"),
        ({"patterns": ["head*"], "network": "model"}, r"Watched has no attribute 'model'.* one of \['net', 'beside'\]"),
    ],
)
def test_mistakes_are_told_before_training(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    theirs = module()
    with pytest.raises(LightningMMError, match=message):
        trainer(tmp_path, [TrainOnly(**{"network": "net", **settings})]).fit(theirs, loader())
    assert all(parameter.requires_grad for parameter in theirs.net.parameters())


def test_empty_patterns_are_refused_and_other_stages_left_alone(tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match="patterns must be a non-empty list"):
        TrainOnly([])
    theirs = module()
    run: Trainer = trainer(tmp_path, [TrainOnly(["nothing"], network="net")])
    run.validate(theirs, loader(), verbose=False)
    assert all(parameter.requires_grad for parameter in theirs.net.parameters())
