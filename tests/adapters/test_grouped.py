"""Grouped mode: one run per combination, the same numbers, and layers that cannot be told apart by sample."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Adapted, Additive, Basis, Bottleneck, Kind, LoRA, NormTuning, OneHot, adapt, load
from lightning_mm.errors import LightningMMError
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import (
    MIXED_INPUTS,
    MIXED_NAMES,
    MixedNetwork,
    mixed_call,
    randomise,
    trained_statistics,
)

NAMES = Modalities(MIXED_NAMES)
MASKS = NAMES.masks()
KINDS: list[Callable[[], Kind]] = [SSF, lambda: LoRA(2), NormTuning, lambda: Bottleneck(2)]
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the adapter")


@pytest.fixture(autouse=True)
def attention_has_one_path() -> Iterator[None]:
    """The fast path of attention, taken where nothing needs a gradient, differs in the last bits."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def make(kind: Kind, basis: Basis, grouped: bool, batch_first: bool = True) -> Adapted:
    torch.manual_seed(0)
    network = MixedNetwork(batch_first=batch_first)
    trained_statistics(network)
    adapted = adapt(
        network, NAMES, kind, basis=basis, inputs=MIXED_INPUTS, example=mixed_call(2), grouped=grouped
    )  # fmt: skip
    randomise(adapted)
    return adapted


def run(adapted: Adapted, available: Tensor = MASKS) -> Tensor:
    args, kwargs = mixed_call(len(available))
    return adapted(*args, **kwargs, available=available)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("basis", [OneHot, Additive])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_and_gradients_are_those_of_one_pass(
    kind: Callable[[], Kind], basis: type[Basis], batch_first: bool
) -> None:
    masks = torch.cat([MASKS, MASKS.flip(0)])
    together, grouped = (make(kind(), basis(), flag, batch_first) for flag in (False, True))
    one, other = run(together, masks), run(grouped, masks)
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    one.square().sum().backward()
    other.square().sum().backward()
    for (name, a), b in zip(together.adapter.named_parameters(), grouped.adapter.parameters()):
        assert a.grad is not None
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-4, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_the_network_runs_once_per_combination_and_the_full_one_is_the_base() -> None:
    adapted = make(SSF(), OneHot(), True)
    sizes: list[int] = []
    adapted.base.head.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    masks = NAMES.masks(["image", "text", "image", "image+text+audio", "image", "image+text+audio"])
    with torch.no_grad():
        output = run(adapted, masks)
        assert sorted(sizes) == [1, 2, 3]
        # a GRU on the CPU has another path for weights that need gradients
        base = adapted.remove().requires_grad_(False)
        args, kwargs = mixed_call(6)
        keep = torch.tensor([3, 5])
        full = {"text": kwargs["text"][keep], "extra": {"audio": kwargs["extra"]["audio"][keep]}}  # type: ignore[index]
        assert torch.equal(output[keep], base.eval()(args[0][keep], **full))
    assert "forward" not in vars(base)


def test_poison_copies_saving_and_folding(tmp_path: Path) -> None:
    adapted = make(SSF(), Additive(), True)
    expected = run(adapted)
    for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert torch.equal(run(twin), expected)
        randomise(twin, seed=3)
        assert not torch.equal(run(twin), expected)
    args, kwargs = mixed_call(3)
    for combination in NAMES.combinations():
        mask = NAMES.mask(combination).expand(3, -1)
        with torch.no_grad():
            torch.testing.assert_close(
                adapted.fold(combination)(*args, **kwargs), run(adapted, mask), rtol=1e-5, atol=1e-5
            )
    adapted.save(tmp_path)
    network = adapted.remove()
    again = load(tmp_path, network)
    assert again.adapter.grouped
    assert torch.equal(run(again), expected)


class Flat(nn.Module):
    """Positions of all samples in one axis in an order of their own: only grouped mode can adapt ``layer``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Mapping[str, Any]:
        tokens = torch.cat([a.flatten(0, 1), b])  # [B * 3 + B, C]
        mixed = torch.tanh(self.layer(tokens))
        pooled = mixed[: -len(b)].view(len(b), 3, -1).mean(1) + mixed[-len(b) :]
        return {"logits": self.head(pooled), "name": "flat"}


def test_layers_whose_samples_cannot_be_told_apart_are_adapted_in_grouped_mode_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    call = (torch.randn(5, 3, 4, generator=generator), torch.randn(5, 4, generator=generator))
    with pytest.raises(LightningMMError, match="layer 'layer' cannot be adapted"):
        adapt(Flat(), ["a", "b"], SSF(), example=(call, {}), targets=["layer"])
    masks = Modalities(["a", "b"]).masks(["a", "b", "a+b", "a", "b"])
    adapted = adapt(Flat(), ["a", "b"], SSF(), example=(call, {}), targets=["layer"], grouped=True)
    randomise(adapted)
    with torch.no_grad():
        output = adapted(*call, available=masks)
        assert output["name"] == "flat"
        for row in range(5):
            alone = adapted(*(value[row : row + 1] for value in call), available=masks[row : row + 1])
            torch.testing.assert_close(output["logits"][row : row + 1], alone["logits"])
        for combination, rows in {"a": [0, 3], "b": [1, 4]}.items():
            folded = adapted.fold(combination)(*(value[rows] for value in call))
            torch.testing.assert_close(output["logits"][rows], folded["logits"])
    torch.manual_seed(0)
    assert_missing_invariant(_Logits(adapted), Modalities(["a", "b"]), {"a": call[0], "b": call[1]})


class _Logits(nn.Module):
    def __init__(self, adapted: Adapted) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:
        return self.adapted(inputs["a"], inputs["b"], available=available)["logits"]


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.layer(a) + b).sum()


def test_outputs_that_cannot_be_joined_are_an_error() -> None:
    call = (torch.randn(3, 4), torch.randn(3, 4))
    adapted = adapt(Sum(), ["a", "b"], SSF(), example=(call, {}), grouped=True)
    with pytest.raises(LightningMMError, match="needs outputs that are batch first"):
        adapted(*call, available=Modalities(["a", "b"]).masks())


def test_a_refusal_leaves_the_network_as_it_was() -> None:
    call = (torch.randn(3, 4), torch.randn(3, 4))
    network = Sum().train()
    network.forward = network.forward  # an own one, on the object
    with pytest.raises(LightningMMError, match="has its own `forward`, set on the object"):
        adapt(network, ["a", "b"], SSF(), example=(call, {}), grouped=True)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    del network.forward
    adapt(network, ["a", "b"], SSF(), example=(call, {}))


class Weighted(nn.Module):
    """A weight for each position, the same for all samples, beside inputs that are batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor, options: dict[str, Tensor]) -> Tensor:
        return (self.layer(a) + b) * options["weight"].sum()


@pytest.mark.parametrize("positional", [True, False])
def test_what_is_not_batch_first_in_the_example_is_never_split(positional: bool, tmp_path: Path) -> None:
    names = Modalities(["a", "b"])
    weight = {"weight": torch.arange(3.0)}

    def call(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(batch, 4, generator=generator) for _ in range(2))
        return ((a, b, weight), {}) if positional else ((a,), {"options": weight, "b": b})

    adapted = adapt(Weighted(), names, SSF(), example=call(2), grouped=True)
    randomise(adapted)
    adapted.save(tmp_path)
    args, kwargs = call(3)  # as many samples as there are weights
    output = adapted(*args, **kwargs, available=names.masks())
    adapted = load(tmp_path, adapted.remove())
    assert torch.equal(adapted(*args, **kwargs, available=names.masks()), output)
    plain = adapt(adapted.remove(), names, SSF(), example=call(2))
    plain.adapter.load_state_dict(adapted.adapter.state_dict())
    torch.testing.assert_close(output, plain(*args, **kwargs, available=names.masks()))
