"""``base_ckpt`` may be a file of released weights where the network can read those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_mm.errors import LightningMMError
from lightning_mm.models import CMNeXt
from lightning_mm.tasks import SemanticSegmentationTask
from lightning_mm.tasks.checkpoints import load_network
from tests.adapter_networks import randomise

NAMES = ["rgb", "thermal"]


def build() -> CMNeXt:
    torch.manual_seed(0)
    return CMNeXt("B0", NAMES, 3)


@pytest.fixture(scope="module")
def released() -> CMNeXt:
    """The network whose weights lie in the files."""
    network = build()
    randomise(network)
    return network


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize(
    "wrap", [dict, lambda state: {"epoch": 1, "model_state_dict": state}, lambda state: {"state_dict": state}]
)
def test_a_released_file_is_a_base(tmp_path: Path, released: CMNeXt, wrap: Any) -> None:
    path = tmp_path / "cmnext.pth"
    torch.save(wrap(released.to_reference()), path)
    task = SemanticSegmentationTask(build(), NAMES, num_classes=3, base_ckpt=str(path))
    assert same(task.model, released)


def test_released_keys_begin_like_a_network_of_that_name(tmp_path: Path, released: CMNeXt) -> None:
    """``backbone.`` is no reason to take a part of the file for the checkpoint of a module with such an attribute."""
    path, network = tmp_path / "cmnext.pth", build()
    torch.save(released.to_reference(), path)
    load_network(network, path, "backbone.")
    assert same(network, released)


def test_own_checkpoints_are_read_as_before(tmp_path: Path, released: CMNeXt) -> None:
    path, network, state = tmp_path / "own.ckpt", build(), released.state_dict()
    torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, path)
    load_network(network, path)
    assert same(network, released)
    state.pop("head.classifier.bias")
    torch.save(state, path)
    with pytest.raises(LightningMMError, match=r"holds another network than this CMNeXt: it lacks head\.classifier"):
        load_network(network, path)


def test_a_released_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path, network = tmp_path / "cmnext.pth", build()
    before = build()
    torch.save(CMNeXt("B0", NAMES, 9).to_reference(), path)
    with pytest.raises(LightningMMError, match=r"base_ckpt .*cmnext\.pth: released .*linear_pred\.weight \(9, 2"):
        load_network(network, path)
    assert same(network, before)
    with pytest.raises(LightningMMError, match=r"cmnext\.pth holds another network than this Linear: it lacks weight"):
        load_network(nn.Linear(2, 2), path)
