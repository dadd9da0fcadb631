"""Distributed training: a layer that the loss does not use neither stops it nor costs a search, for every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from lightning_mm.adapters import IA3, SSF, Adapted, Hyper, Kind, adapt
from lightning_mm.adapters.ranks import joined
from lightning_mm.missing import Learned
from tests.support.adapter_networks import randomise, trained_statistics
from tests.support.every_kind import KINDS, NAMES, Network, inputs
from tests.support.ranks import run_ranks

MASKS = NAMES.masks(["a", "b", "a+b", "b+c", "a+b+c", "c"])

SHARDED = ("SSF", "LoRA", "PromptTokens")


class WithUnused(Network):
    """Also returns what an auxiliary head makes of the first modality, which the losses below do not use."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return {"logits": super().forward(a, b, c), "auxiliary": self.auxiliary(a)}


def kind_of(name: str) -> Kind:
    # a kind that by default chooses layers by the names of another network
    return IA3(outputs=["head", "auxiliary.0"], inputs=["mixer.linear2"]) if name == "IA3" else KINDS[name]()


def build(name: str) -> Adapted:
    torch.manual_seed(0)
    network = WithUnused()
    trained_statistics(network)
    adapted = adapt(network, NAMES, kind_of(name), example=((), inputs(2)))
    randomise(adapted.adapter)
    return adapted


def loss_of(outputs: Any) -> Tensor:
    loss: Tensor = outputs["logits"].square().mean()
    return loss


def train_on_two(rank: int, folder: Path) -> None:
    found: dict[str, Any] = {}
    for name in KINDS:
        adapted = build(name)
        parallel = nn.parallel.DistributedDataParallel(adapted)
        given = {modality: value.chunk(2)[rank] for modality, value in inputs(6).items()}
        for _ in range(2):  # the second step would fail if a parameter had not taken part in the first
            adapted.zero_grad()
            loss_of(parallel(**given, available=MASKS.chunk(2)[rank])).backward()
        gradients = {key: one.grad for key, one in adapted.adapter.named_parameters()}
        found[name] = gradients, parallel._get_ddp_logging_data()
    if rank == 0:
        torch.save(found, folder / "found.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*layers are left out")
def test_two_ranks_train_every_kind_though_the_loss_leaves_layers_out(tmp_path: Path) -> None:
    run_ranks(train_on_two, tmp_path, start="fork")
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    for name in KINDS:
        gradients, facts = found[name]
        adapted = build(name)
        loss_of(adapted(**inputs(6), available=MASKS)).backward()
        parameters = dict(adapted.adapter.named_parameters())
        for key, parameter in parameters.items():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert torch.allclose(gradients[key], expected, rtol=1e-4, atol=1e-5), (name, key)
        # buckets hold the adapter and no frozen weight, and nothing is searched for
        assert facts["total_parameter_size_bytes"] == sum(4 * one.numel() for one in parameters.values()), name
        assert not facts["find_unused_parameters"]
    assert any(one.grad is None for one in build("LoRA").adapter.parameters())


def shard_on_two(rank: int, folder: Path) -> None:
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    found = {}
    for name in SHARDED:
        adapted = doubled(name)
        for part in (adapted.base.mixer, adapted.base.head, adapted):
            fully_shard(part, mesh=mesh)
        trained_on(adapted, rank, 2)
        found[name] = {key: one.full_tensor() for key, one in adapted.adapter.named_parameters()}
    if rank == 0:
        torch.save(found, folder / "found.pt")


def doubled(name: str) -> Any:
    """An adapted network in float64."""
    adapted = build(name).double()
    for parameter in adapted.adapter.parameters():
        parameter.data = parameter.data.double()
    return adapted


def trained_on(adapted: Any, rank: int, ranks: int) -> None:
    optimizer = torch.optim.SGD([one for one in adapted.parameters() if one.requires_grad], lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        given = {key: one.double().chunk(ranks)[rank] for key, one in inputs(6, seed=step).items()}
        loss_of(adapted(**given, available=MASKS.chunk(ranks)[rank])).backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*layers are left out")
def test_torch_may_shard_an_adapted_network(tmp_path: Path) -> None:
    """By `fully_shard`, layers on their own and the whole."""
    run_ranks(shard_on_two, tmp_path, start="fork")
    found = torch.load(tmp_path / "found.pt")
    for name in SHARDED:
        adapted = doubled(name)
        trained_on(adapted, 0, 1)
        for key, parameter in adapted.adapter.named_parameters():
            assert torch.allclose(found[name][key], parameter, rtol=0, atol=1e-12), (name, key)


def test_one_process_is_left_alone() -> None:
    outputs = {"logits": torch.ones(2, requires_grad=True) * 2, "name": "x"}
    assert joined(outputs, [nn.Parameter(torch.ones(1))]) is outputs


def test_joined_outputs_may_be_modified_in_place(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        leaf, other = torch.ones(2, requires_grad=True), nn.Parameter(torch.ones(1))
        outputs = joined({"logits": leaf * 2, "fixed": torch.ones(1), "text": ["x"]}, [other])
        assert outputs["fixed"].grad_fn is None
        with torch.no_grad():
            assert joined(outputs, [other]) is outputs
        outputs["logits"].relu_().sum().backward()
    finally:
        dist.destroy_process_group()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [2.0, 2.0]
    assert other.grad is None


@pytest.mark.filterwarnings("ignore:.*layers are left out")
def test_a_placeholder_that_learns_may_be_idle_in_a_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fill = Learned(dict.fromkeys(NAMES, 4), channel_axis=-1)
    adapted = adapt(Network(), NAMES, SSF(), basis=Hyper(), fill=fill, example=((), inputs(2)))
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(adapted)
        for _ in range(2):  # the second step would fail if a parameter had not taken part in the first
            parallel(**inputs(6), available=MASKS[[3, 4, 5] * 2]).square().sum().backward()
    finally:
        dist.destroy_process_group()
    own = adapted.adapter.fill
    assert isinstance(own, Learned)
    gradients = {name: own.rows[name].grad for name in NAMES}
    assert gradients["a"] is not None
    assert gradients["a"].any()
    assert gradients["c"] is None or not gradients["c"].any()
