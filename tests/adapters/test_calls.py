"""Nothing of one call meets another one: threads, exceptions, nested calls, several forwards before a backward."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Adapted, Additive, adapt
from tests.support.adapter_networks import randomise
from tests.support.every_kind import BASES, KINDS, NAMES, Network, build, inputs
from tests.support.type_checker import unchecked

MASKS = NAMES.masks()
"""A batch of all combinations."""
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of", "ignore:IA3 finds no")


@pytest.fixture(autouse=True)
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def turned(number: int) -> Tensor:
    """A batch of all combinations in another order for each thread."""
    return MASKS.roll(number, 0)


def run(adapted: Adapted, number: int, gradients: bool) -> list[Tensor]:
    """Outputs of one call, or the gradients of all parameters of the adapter."""
    with torch.set_grad_enabled(gradients):
        outputs = adapted(**inputs(), available=turned(number))
    if not gradients:
        return [outputs]
    parameters = [one for one in adapted.adapter.parameters() if one.requires_grad]
    found = torch.autograd.grad(outputs.square().sum(), parameters, allow_unused=True)
    return [outputs.detach(), *(one for one in found if one is not None)]


def wrong_calls(calls_of: Sequence[tuple[Adapted, bool]], threads: int, calls: int) -> int:
    """How many calls of several threads, which take turns with ``calls_of``, differ from the same call made alone.

    Args:
        calls_of: Networks, and whether gradients are computed.
        threads: How many threads, each with other masks.
        calls: How many calls each makes.
    """
    expected = [[run(adapted, number, gradients) for adapted, gradients in calls_of] for number in range(threads)]
    wrong: list[Any] = []

    def work(number: int) -> None:
        for place in range(calls):
            which = (place + number) % len(calls_of)
            try:
                found = run(calls_of[which][0], number, calls_of[which][1])
            except Exception as error:
                wrong.append(error)
                continue
            if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, expected[number][which])):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_meet(kind: str) -> None:
    assert wrong_calls([(build(kind, "Additive"), False)], threads=4, calls=15) == 0
    assert wrong_calls([(build(kind, "OneHot"), True)], threads=4, calls=10) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_calls_of_8_threads(kind: str) -> None:
    """All bases, with and without gradients, in turn."""
    calls_of = [(build(kind, basis), gradients) for basis in BASES for gradients in (False, True)]
    with unchecked():  # hundreds of calls
        assert wrong_calls(calls_of, threads=8, calls=30) == 0


@pytest.mark.parametrize("grouped", [False, True])
def test_masks_of_threads_that_are_set_beforehand(grouped: bool) -> None:
    adapted = build(grouped=grouped)
    expected = [run(adapted, number, False)[0] for number in range(4)]
    wrong = []

    def work(number: int) -> None:
        with torch.no_grad(), adapted.adapter.using(turned(number)):
            for _ in range(10):
                wrong.extend([number] * (not torch.allclose(adapted.base(**inputs()), expected[number], atol=1e-5)))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


class Fails(Exception):
    """Of the network itself."""


@pytest.mark.parametrize("where", ["encoders.b", "mixer", "mixer.linear1", "head"])
@pytest.mark.parametrize("kind", ["SSF", "PromptTokens", "Together"])
def test_after_an_exception_nothing_is_left_of_the_call(kind: str, where: str) -> None:
    adapted = build(kind)
    base, part = adapted.base, adapted.base.mixer
    tokens = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    alone, expected = part(tokens), run(adapted, 0, True)
    seen: list[weakref.ref[Tensor]] = []

    def fail(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(weakref.ref(output))
        raise Fails

    handle = base.get_submodule(where).register_forward_hook(fail)
    with pytest.raises(Fails):
        adapted(**inputs(), available=MASKS)
    handle.remove()
    gc.collect()
    assert seen[0]() is None, "tensors of the call are kept"
    assert torch.equal(part(tokens), alone), "a part called alone is modulated by the dead call"
    assert adapted.adapter.current.situation.call is None
    for found, before in zip(run(adapted, 0, True), expected):
        assert torch.equal(found, before)


def test_after_a_wrong_mask_nothing_is_left_of_the_call() -> None:
    adapted = build()
    with pytest.raises(ValueError, match="rows"):
        adapted(**inputs(), available=MASKS[:3])
    assert adapted.adapter.current.situation.call is None


def test_an_interrupted_call_ends_with_its_mask() -> None:
    """KeyboardInterrupt runs no hook: the call is dropped where its mask is."""
    adapted = build()

    def stop(module: nn.Module, args: Any) -> None:
        raise KeyboardInterrupt

    handle = adapted.base.head.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        adapted(**inputs(), available=MASKS)
    handle.remove()
    assert adapted.adapter.current.situation.call is None


def test_a_call_that_never_began_ends_nothing() -> None:
    """A hook of the user that comes before all others raises."""
    adapted = build()

    def fail(*_: Any) -> None:
        raise Fails

    handle = adapted.base.register_forward_pre_hook(fail, prepend=True)
    for _ in range(2):
        with pytest.raises(Fails):
            adapted.base(**inputs())
    handle.remove()
    with torch.no_grad():
        expected = adapted(**inputs())
        assert torch.equal(adapted.base(**inputs()), expected)


def test_threads_leave_no_mask_for_compiled_code() -> None:
    adapted = build()
    first, second = (adapted.adapter.using(mask) for mask in (MASKS, MASKS[:2]))
    entered, left = threading.Event(), threading.Event()

    def work() -> None:
        with second:
            entered.set()
            left.wait(10)

    worker = threading.Thread(target=work)
    with first:
        worker.start()
        entered.wait(10)
    left.set()
    worker.join()
    assert adapted.adapter.current._in_graphs.available is None


def test_an_encoder_whose_exception_the_network_catches() -> None:
    class Careful(Network):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            with suppress(Fails):
                self.encoders["a"](a)
            return super().forward(a, b, c)

    torch.manual_seed(0)
    adapted = adapt(Careful(), NAMES, SSF(), basis=Additive(), example=((), inputs(2)), encoders={})
    randomise(adapted.adapter)
    adapted.adapter.encoders = {"a": "encoders.a"}
    base, adapter = adapted.remove(), adapted.adapter
    adapter.attach(base)
    expected = adapted(**inputs(), available=MASKS)
    fails = [True]

    def fail(module: nn.Module, args: Any) -> None:
        if fails.pop() if fails else False:
            raise Fails

    base.encoders["a"][1].register_forward_pre_hook(fail)
    torch.testing.assert_close(adapted(**inputs(), available=MASKS), expected)
    assert not fails


class Nested(nn.Module):
    """Calls an inner adapted network, or itself, with another mask inside of its forward."""

    def __init__(self, inner: Adapted | None = None) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)
        self.inner = inner

    def forward(self, a: Tensor, b: Tensor, available: Tensor, depth: int = 1) -> Tensor:
        x = self.before(a) + b
        if depth:
            other = available.flip(0)
            given = (a + 1, b - 1)
            x = x + (self(*given, other, depth - 1) if self.inner is None else self.inner(*given, available=other))
        return self.after(x)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.after(self.before(a) + b)


def pair_call(batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, generator=generator), torch.randn(batch, 4, generator=generator)


def modulated(adapted: Adapted, name: str, x: Tensor, available: Tensor) -> Tensor:
    """One linear layer with its SSF rows, by hand."""
    bank: Any = adapted.adapter.banks[name]
    rows = (~available).float()
    layer = adapted.base.get_submodule(name)
    return layer(x) * (1 + rows @ bank.scale) + rows @ bank.shift


def adapted_pair(network: nn.Module, *call: Any) -> Adapted:
    adapted = adapt(network, ["a", "b"], SSF(), basis=Additive(), example=(call, {}), targets=["before", "after"])
    randomise(adapted.adapter)
    return adapted


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # read by torch.compile
@pytest.mark.parametrize("part", ["compiled", "eager"])
def test_a_part_of_a_network_is_compiled_or_is_not(part: str) -> None:
    """Compiled parts that eager code calls, and eager parts that compiled code calls, find the call."""
    call, mask = pair_call(), torch.tensor([[True, False], [False, True], [True, True], [False, True]])
    adapted = network = adapted_pair(Pair(), *call)
    expected = [adapted(*call, available=mask.roll(number, 0)) for number in range(2)]
    if part == "compiled":
        adapted.base.after.compile(backend="eager")
    else:
        adapted.base.after.forward = torch.compiler.disable(adapted.base.after.forward)
        network = torch.compile(adapted, backend="eager")
    for number in (0, 0, 1):
        found = network(*call, available=mask.roll(number, 0))
        torch.testing.assert_close(found, expected[number], rtol=1e-4, atol=1e-5)
    assert adapted.adapter.current.situation.call is None


@pytest.mark.parametrize("recursive", [True, False])
def test_a_call_inside_of_a_call_has_a_mask_of_its_own(recursive: bool) -> None:
    torch.manual_seed(0)
    a, b = pair_call()
    mask = torch.tensor([[True, False], [False, True], [True, True], [True, False]])
    inner = None if recursive else adapted_pair(Pair(), a, b)
    outer = adapted_pair(Nested(inner), a, b, mask)
    with torch.no_grad():
        found = outer.base(a, b, mask)
        used = outer if inner is None else inner

        def alone(adapted: Adapted, a: Tensor, b: Tensor, mask: Tensor, extra: Tensor | float = 0.0) -> Tensor:
            a, b = (torch.where(mask[:, k : k + 1], x, torch.zeros_like(x)) for k, x in enumerate((a, b)))
            return modulated(adapted, "after", modulated(adapted, "before", a, mask) + b + extra, mask)

        # what the outer network sees inside of its forward is filled already
        filled = [torch.where(mask[:, k : k + 1], x, torch.zeros_like(x)) for k, x in enumerate((a, b))]
        flipped = mask.flip(0)
        outer.adapter.detach()
        if inner is not None:
            inner.adapter.detach()
        expected = alone(outer, a, b, mask, alone(used, filled[0] + 1, filled[1] - 1, flipped))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["SSF", "LoRA", "NormTuning", "PromptTokens"])
@pytest.mark.parametrize("basis", BASES)
def test_two_forwards_before_one_backward_add_their_gradients(kind: str, basis: str) -> None:
    adapted = build(kind, basis)
    separate = [torch.zeros_like(one) for one in adapted.adapter.parameters()]
    for number in (0, 3):
        outputs = adapted(**inputs(seed=number), available=turned(number))
        found = torch.autograd.grad(outputs.square().sum(), list(adapted.adapter.parameters()), allow_unused=True)
        separate = [total if one is None else total + one for total, one in zip(separate, found)]
    both = [adapted(**inputs(seed=number), available=turned(number)) for number in (0, 3)]
    torch.stack([one.square().sum() for one in both]).sum().backward()
    for parameter, expected in zip(adapted.adapter.parameters(), separate):
        torch.testing.assert_close(parameter.grad if parameter.grad is not None else expected * 0, expected)


@pytest.mark.parametrize("kind", ["SSF", "LoRA", "NormTuning", "PromptTokens"])
def test_two_forwards_of_which_only_the_first_is_backpropagated(kind: str) -> None:
    adapted = build(kind)
    parameters = list(adapted.adapter.parameters())
    outputs = adapted(**inputs(), available=MASKS)
    expected = torch.autograd.grad(outputs.square().sum(), parameters, allow_unused=True)
    first = adapted(**inputs(), available=MASKS)
    adapted(**inputs(seed=5), available=turned(2))
    with torch.no_grad():
        adapted(**inputs(seed=6), available=turned(1))
    found = torch.autograd.grad(first.square().sum(), parameters, allow_unused=True)
    for ours, theirs in zip(found, expected):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


def test_a_part_that_is_called_alone_is_that_of_the_base() -> None:
    adapted = build()
    tokens = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    expected = adapted.base.mixer(tokens)
    adapted(**inputs(), available=MASKS)
    assert torch.equal(adapted.base.mixer(tokens), expected)
