"""``base_ckpt`` may be a file of released weights where the network can read those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.models import CMNeXt, MulT, ViLT
from lightning_mm.tasks import BaseTask, ClassificationTask, SemanticSegmentationTask, SentimentTask
from lightning_mm.tasks.checkpoints import load_network
from tests.support.adapter_networks import randomise
from tests.support.tiny_vilt import SIZES


@dataclass(frozen=True)
class Released:
    """A network, its task, and how its weights are released.

    Args:
        build: Called with the number of classes, 3 in the files.
        task: Called with a network and settings.
        part: A key of the network's own head.
        misfit: What is said of a file for 9 classes.
    """

    build: Callable[[int], nn.Module]
    task: Callable[..., BaseTask]
    part: str
    misfit: str

    def reference(self, network: Any) -> Mapping[str, Tensor]:
        """Under the released names."""
        names = ("food101_classifier",) if isinstance(network, ViLT) else ()
        state: Mapping[str, Tensor] = network.to_reference(*names)
        return state


WIDTHS = {"text": 6, "audio": 3, "vision": 4}
PAIR, TRIPLE, IMAGE_TEXT = ["rgb", "thermal"], list(WIDTHS), ["image", "text"]
NETWORKS = {
    "CMNeXt": Released(
        lambda classes: CMNeXt("B0", PAIR, classes),
        lambda network, **settings: SemanticSegmentationTask(network, PAIR, num_classes=3, **settings),
        "head.classifier.bias",
        r"released .*linear_pred\.weight \(9, 2",
    ),
    "MulT": Released(
        lambda classes: MulT(WIDTHS, classes, dim=8, heads=2, levels=1),
        lambda network, **settings: SentimentTask(network, TRIPLE, **settings),
        "head.bias",
        r"out_layer\.weight",
    ),
    "ViLT": Released(
        lambda classes: ViLT(classes, **SIZES),
        lambda network, **settings: ClassificationTask(network, IMAGE_TEXT, num_classes=3, **settings),
        "head.3.bias",
        r"the reference weights have no head for 3 classes, only \['food101_classifier'\]: ours would stay random",
    ),
}


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(name: str, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name].build(classes)


def released(name: str) -> nn.Module:
    """The network whose weights lie in the files."""
    network = build(name)
    randomise(network)
    return network


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda state: {"epoch": 1, "model_state_dict": state},
        lambda state: {"epoch": 1, "state_dict": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
    ids=["bare", "model_state_dict", "state_dict", "module."],
)
def test_a_released_file_is_a_base(name: str, tmp_path: Path, wrap: Any) -> None:
    path, source = tmp_path / "released.pth", released(name)
    torch.save(wrap(NETWORKS[name].reference(source)), path)
    task = NETWORKS[name].task(build(name), base_ckpt=str(path))
    assert same(task.model, source)


def test_released_keys_begin_like_a_network_of_that_name(tmp_path: Path) -> None:
    """``backbone.`` is no reason to take a part of the file for the checkpoint of a module with such an attribute."""
    path, network, source = tmp_path / "cmnext.pth", build("CMNeXt"), released("CMNeXt")
    torch.save(NETWORKS["CMNeXt"].reference(source), path)
    load_network(network, path, "backbone.")
    assert same(network, source)


def test_own_checkpoints_are_read_as_before(name: str, tmp_path: Path) -> None:
    path, network, source = tmp_path / "own.ckpt", build(name), released(name)
    state = source.state_dict()
    torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, path)
    load_network(network, path)
    assert same(network, source)
    state.pop(NETWORKS[name].part)
    torch.save(state, path)
    with pytest.raises(LightningMMError, match=rf"holds another network than this {name}: it lacks head\."):
        load_network(network, path)


def test_a_released_file_that_does_not_fit_is_named(name: str, tmp_path: Path) -> None:
    path, network, before = tmp_path / "released.pth", build(name), build(name)
    torch.save(NETWORKS[name].reference(build(name, 9)), path)
    with pytest.raises(LightningMMError, match=r"base_ckpt .*released\.pth: .*" + NETWORKS[name].misfit):
        load_network(network, path)
    assert same(network, before)
    with pytest.raises(LightningMMError, match=r"released\.pth holds another network than this Linear: it lacks"):
        load_network(nn.Linear(2, 2), path)


def test_a_base_of_vilt_has_a_head(tmp_path: Path) -> None:
    """Weights of pre-training have none of classification: it would be frozen as it was drawn."""
    path, source = tmp_path / "vilt.ckpt", released("ViLT")
    assert isinstance(source, ViLT)
    state = {**source.to_reference(), "mlm_score.bias": torch.ones(60), "itm_score.fc.bias": torch.ones(2)}
    torch.save({"state_dict": state}, path)
    network, before = build("ViLT"), build("ViLT")
    message = r"base_ckpt .*vilt\.ckpt: the reference weights have no head for 3 .*, only \['itm_score', 'mlm_score'\]"
    with pytest.raises(LightningMMError, match=message):
        NETWORKS["ViLT"].task(network, base_ckpt=str(path))
    assert same(network, before)
    torch.manual_seed(0)
    for start in (ViLT(3, str(path), **SIZES), ViLT(3, head="none", **SIZES)):
        NETWORKS["ViLT"].task(start, base_ckpt=str(path) if start.reference_head == "none" else None)
        assert same(start.backbone, source.backbone)
