"""Absent rows cost nothing: encoders see each distinct row once, and nothing else changes."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Adapted, Additive, Basis, LoRA, OneHot, adapt, sensitivity
from lightning_mm.adapters.absent_rows import distinct_rows
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import ClassificationTask, Distillation
from lightning_mm.testing import assert_missing_invariant
from tests.support.absent_rows import NAMES, InPlace, inputs, make, network
from tests.support.adapter_networks import randomise

MASKS = NAMES.masks(["image", "motion", "text", "image", "image+text", "image+motion+text", "motion", "image"])


class Counts:
    """Notes how many samples a module is given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        value = args[0]["values"] if isinstance(args[0], dict) else args[0]
        self.sizes.append(len(value))


def test_distinct_rows() -> None:
    codes = [1, 2, 4, 1, 5, 7, 2, 1]
    assert distinct_rows(codes, 0, apart=True) == ([0, 1, 2, 3, 4, 5, 7], [0, 1, 2, 3, 4, 5, 1, 6])
    assert distinct_rows(codes, 0, apart=False) == ([0, 1, 3, 4, 5, 7], [0, 1, 1, 2, 3, 4, 1, 5])


@pytest.mark.parametrize("mask_absent", [False, True])
@pytest.mark.parametrize("basis", [OneHot, Additive])
def test_encoders_see_each_row_once_and_the_outputs_stay(basis: type[Basis], mask_absent: bool) -> None:
    adapted, plain = make(basis(), None, mask_absent), make(basis(), {}, mask_absent)
    assert adapted.adapter.encoders == {name: f"encoders.{name}" for name in NAMES}
    counts = {name: Counts() for name in NAMES}
    for name, count in counts.items():
        adapted.base.encoders[name].register_forward_pre_hook(count)
    for module in (adapted, plain):
        module.zero_grad()
    one, other = adapted(inputs(), available=MASKS), plain(inputs(), available=MASKS)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    # image is there five times and lacks in three samples of two combinations; and so on
    assert {name: count.sizes for name, count in counts.items()} == {"image": [7], "motion": [6], "text": [5]}
    one.square().sum().backward()
    other.square().sum().backward()
    for (name, a), b in zip(adapted.adapter.named_parameters(), plain.adapter.parameters()):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=lambda m: f"{name}: {m}")  # noqa: B023
    for count in counts.values():
        count.sizes.clear()
    with torch.no_grad(), adapted.adapter.disabled():
        adapted(inputs(), available=MASKS)
    assert {name: count.sizes for name, count in counts.items()} == {"image": [6], "motion": [4], "text": [4]}
    with torch.no_grad():
        adapted(inputs(), available=NAMES.mask("text").expand(8, -1))
    assert counts["image"].sizes[-1] == counts["motion"].sizes[-1] == 1
    assert counts["text"].sizes[-1] == 8


def test_lora_in_an_encoder_routes_the_rows_that_are_left() -> None:
    for basis in (OneHot(), Additive()):
        adapted, plain = make(basis, kind=LoRA(2)), make(basis, {}, kind=LoRA(2))
        with torch.no_grad():
            torch.testing.assert_close(
                adapted(inputs(), available=MASKS), plain(inputs(), available=MASKS), rtol=1e-5, atol=1e-5
            )


def test_poison_reaches_nothing() -> None:
    assert_missing_invariant(make(Additive()), NAMES, inputs())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_and_the_base_after_removal(clone: Callable[[Adapted], Adapted]) -> None:
    adapted = make(OneHot())
    expected = adapted(inputs(), available=MASKS)
    assert torch.equal(clone(adapted)(inputs(), available=MASKS), expected)
    base = adapted.remove()
    assert torch.equal(base(inputs()), network()(inputs()))
    assert not [module for module in base.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_folded_runs_absent_encoders_on_one_row_under_the_same_names() -> None:
    adapted = make(Additive())
    folded = adapted.fold("text")
    count = Counts()
    folded.network.encoders["image"].get_submodule("stages.0").register_forward_pre_hook(count)
    mask = NAMES.mask("text").expand(8, -1)
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs()), adapted(inputs(), available=mask), rtol=1e-5, atol=1e-5)
    assert count.sizes == [1]
    assert set(folded.network.state_dict()) <= set(network().state_dict()) | {
        f"{site.name}.bias" for site in adapted.adapter.sites
    }
    assert torch.equal(copy.deepcopy(folded)(inputs()), folded(inputs()))


class Odd(nn.Module):
    """Encoders that must not run on a part of the batch, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abcd"})
        self.encoders["b"] = nn.BatchNorm1d(4, track_running_stats=False)
        self.head = nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        twice = self.encoders["c"](self.encoders["c"](c))
        return self.head(self.encoders["a"](a) + self.encoders["b"](b) + twice + self.encoders["d"](d + a))


@pytest.mark.filterwarnings("ignore:.*normalise by batch statistics")
def test_encoders_that_need_the_batch_are_left_alone_and_named_when_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    call = tuple(torch.randn(3, 4, generator=generator) for _ in range(4))
    adapted = adapt(Odd(), ["a", "b", "c", "d"], SSF(), example=(call, {}))
    assert adapted.adapter.encoders == {"a": "encoders.a"}
    for name, reason in {
        "b": "depends on the other samples",
        "c": "it runs 2 times",
        "d": "depends on more than its modality",
    }.items():
        with pytest.raises(LightningMMError, match=rf"encoder 'encoders.{name}' of modality '{name}'.*{reason}"):
            adapt(Odd(), ["a", "b", "c", "d"], SSF(), example=(call, {}), encoders={name: f"encoders.{name}"})
    with pytest.raises(LightningMMError, match=r"expected one of the modalities .* and the name of its encoder"):
        adapt(Odd(), ["a", "b", "c", "d"], SSF(), example=(call, {}), encoders={"a": "backbone"})


class Plus(nn.Module):
    """What an encoder is given besides its modality must be noticed, whatever it is."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(4, 4) for name in "ab"})
        self.head, self.what = nn.Linear(4, 2), what

    def forward(self, a: Tensor, b: Tensor, age: Tensor, available: Tensor | None = None) -> Tensor:
        extra: Any = {"b": b, "age": age, "available": None if available is None else available.sum(1, keepdim=True)}
        return self.head(self.encoders["a"](a + extra[self.what]) + self.encoders["b"](b))


@pytest.mark.parametrize("what", ["b", "age", "available"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_encoder_that_reads_something_else_is_left_alone_whatever_the_example(what: str, size: int) -> None:
    torch.manual_seed(0)
    names = Modalities(["a", "b"])
    call = (torch.randn(size, 4), torch.randn(size, 4), torch.randn(size, 1))
    adapted = adapt(Plus(what), names, SSF(), example=(call, {}))
    assert adapted.adapter.encoders == {"b": "encoders.b"}
    batch = (torch.randn(4, 4), torch.randn(4, 4), torch.randn(4, 1))
    masks = names.masks(["b", "b", "a", "b"])
    with torch.no_grad():
        together = adapted(*batch, available=masks)
        for row in range(4):
            alone = adapted(*(value[row : row + 1] for value in batch), available=masks[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone)


class Output(dict):  # type: ignore[type-arg]
    """A mapping whose entries are attributes too, as transformers has them."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Output:
        return Output(features=self.layer(x))


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoders, self.head = nn.ModuleDict({name: Named() for name in "ab"}), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.encoders["a"](a).features + self.encoders["b"](b).features)


def test_outputs_keep_their_type_and_traces_take_all_rows() -> None:
    torch.manual_seed(0)
    names = Modalities(["a", "b"])
    call = (torch.randn(4, 4), torch.randn(4, 4))
    adapted = adapt(Reads(), names, SSF(), example=(call, {}))
    randomise(adapted)
    assert set(adapted.adapter.encoders) == {"a", "b"}
    masks = names.masks(["b", "b", "a", "a+b"])
    plain = adapt(copy.deepcopy(adapted).remove(), names, SSF(), example=(call, {}), encoders={})
    plain.adapter.load_state_dict(adapted.adapter.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(adapted(*call, available=masks), plain(*call, available=masks))
        alone = plain(*call, available=names.mask("a").expand(4, -1))
        torch.testing.assert_close(adapted.fold("a")(*call), alone)
        with adapted.adapter.every_row():
            count = Counts()
            handle = adapted.base.encoders["a"].register_forward_pre_hook(count)
            adapted(*call, available=masks)
            assert count.sizes == [4]
            handle.remove()


def test_encoders_without_a_fill_are_a_contradiction() -> None:
    call = (torch.randn(4, 4), torch.randn(4, 4))
    with pytest.raises(LightningMMError, match="`encoders` needs a fill"):
        adapt(Reads(), ["a", "b"], SSF(), example=(call, {}), fill=None, encoders={"a": "encoders.a"})


def test_layers_in_encoders_are_compared_sample_by_sample() -> None:
    """With all samples in an encoder, what ``sensitivity`` sees does not depend on how encoders save time."""
    batch, merged, apart = inputs(), make(OneHot()), make(OneHot(), {})
    found = []
    for adapted in (merged, apart):
        with torch.no_grad():
            for parameter in adapted.adapter.banks.parameters():
                parameter.zero_()

        def loss(given: Any, available: Tensor, adapted: Adapted = adapted) -> Tensor:
            return (adapted(given, available=available) - 1).square().mean()

        found.append({one.name: one for one in sensitivity(adapted.adapter, adapted.base, [(batch, MASKS)], loss)})
    assert any(name.startswith("encoders.") for name in found[0])
    for name, one in found[0].items():
        assert math.isfinite(one.disturbance), name
        assert one.disturbance == pytest.approx(found[1][name].disturbance, rel=1e-4), name
        assert one.gain == pytest.approx(found[1][name].gain, rel=1e-3, abs=1e-9), name
    grouped = make(OneHot(), grouped=True)
    with pytest.raises(LightningMMError, match="without grouped"):
        sensitivity(grouped.adapter, grouped.base, [(batch, MASKS)], loss)


def test_features_of_encoders_are_those_of_all_samples() -> None:
    losses = []
    for encoders in (None, {}):
        torch.manual_seed(0)
        task = ClassificationTask(
            network(),
            list(NAMES),
            4,
            distillation=Distillation(layers=["encoders.*.norm", "trunk*"], feature_weight=0.5),
        )
        batch = {"inputs": inputs(), "available": MASKS, "observed": torch.ones_like(MASKS), "index": torch.arange(8)}
        batch["target"] = torch.arange(8) % 4
        adapter = FrozenBackboneAdapter(SSF(), encoders=encoders).attach(task, batch, "fit")
        randomise(adapter, scale=0.1)
        task.log = lambda *args, **settings: None  # type: ignore[method-assign]
        losses.append(task.training_step(batch, 0).item())
        assert bool(adapter.encoders) == (encoders is None)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_outputs_that_the_network_changes_in_place() -> None:
    names = Modalities(["a", "b"])
    generator = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(5, 4, generator=generator) for name in names}
    adapted = adapt(InPlace(), names, SSF(), example=((inputs,), {}), targets=["encoders.*", "head"])
    assert set(adapted.adapter.encoders) == {"a", "b"}
    randomise(adapted)
    for combination in names.combinations():
        available = names.mask(combination).expand(5, -1)
        with torch.no_grad():
            torch.testing.assert_close(adapted.fold(combination)(inputs), adapted(inputs, available=available))
            with adapted.adapter.every_row():
                torch.testing.assert_close(adapted.fold(combination)(inputs), adapted(inputs, available=available))


class Sized(nn.Module):
    """An encoder gets its size as a list of two numbers and returns it; two samples are not its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: SizedEncoder() for name in "ab"})
        self.head = nn.Linear(3, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        (a, size), (b, _) = (self.encoders[name](x, [1, 3]) for name, x in zip("ab", (a, b)))
        assert size == [1, 3]
        return self.head(a + b)


class SizedEncoder(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)

    def forward(self, x: Tensor, size: list[int]) -> tuple[Tensor, list[int]]:
        return super().forward(x).view(len(x), *size).flatten(1), size


@pytest.mark.parametrize("batch", [2, 3])  # two rows before or after the merge
def test_lists_of_numbers_are_no_samples_to_an_encoder(batch: int) -> None:
    torch.manual_seed(0)
    call = (torch.randn(3, 4), torch.randn(3, 4))
    adapted = adapt(Sized(), ["a", "b"], SSF(), example=(call, {}), targets=["head"])
    assert sorted(adapted.adapter.encoders) == ["a", "b"]
    mask = torch.tensor([[False, True], [False, True], [True, True]])[:batch]
    with torch.no_grad():
        outputs = adapted(call[0][:batch], call[1][:batch], available=mask)
        with adapted.adapter.every_row():
            torch.testing.assert_close(outputs, adapted(call[0][:batch], call[1][:batch], available=mask))
