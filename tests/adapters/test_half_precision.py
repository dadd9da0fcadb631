"""In half precision the smallest learned change has the effect that it has in float32, and no bit moves without one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import (
    IA3,
    SSF,
    Adapted,
    Additive,
    BitFit,
    Bottleneck,
    Kind,
    LoRA,
    NormTuning,
    OneHot,
    ScaleOnly,
    ShiftOnly,
    Together,
    adapt,
)
from lightning_mm.adapters.layers.half import finer, modulated_half, plus
from lightning_mm.modalities import Modalities

NAMES = Modalities(["a", "b"])
DTYPES = (torch.bfloat16, torch.float16)
KINDS: dict[str, Callable[[], Kind]] = {
    "SSF": SSF,
    "ScaleOnly": ScaleOnly,
    "ShiftOnly": ShiftOnly,
    "BitFit": BitFit,
    "NormTuning": NormTuning,
    "LoRA": lambda: LoRA(2, alpha=4),
    "IA3": lambda: IA3(outputs=["a"], inputs=["layer"]),
    "Bottleneck": lambda: Bottleneck(2),
    "Together": lambda: Together([LoRA(2), SSF()]),
}
BATCH = 192


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.norm = nn.Linear(16, 48), nn.Linear(8, 48), nn.LayerNorm(48)
        self.plain, self.layer = nn.LayerNorm(48, elementwise_affine=False), nn.Linear(48, 48)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        hidden = self.norm(torch.relu(self.a(a) + self.b(b)))
        return self.layer(torch.relu(self.plain(hidden)))


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(BATCH, size, generator=generator).to(dtype) for name, size in (("a", 16), ("b", 8))}


def build(kind: Kind, basis: Any = None) -> Adapted:
    return adapt(Network().eval(), NAMES, kind, basis=basis or Additive(), example=((), inputs()))


def step(adapted: Adapted, size: float) -> None:
    """Move every parameter that starts at zero by ``size``, up or down."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.adapter.banks.parameters():
            if not parameter.any():
                parameter.add_(size * (2.0 * torch.randint(0, 2, parameter.shape, generator=generator) - 1))


def effect(run: Callable[[], Tensor], adapted: Adapted, size: float) -> Tensor:
    with torch.no_grad():
        before = run().double()
        step(adapted, size)
        return run().double() - before


def ratio(found: Tensor, expected: Tensor) -> float:
    return float((found * expected).sum() / expected.square().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_change_has_the_effect_that_it_has_in_float32(kind: str) -> None:
    only_a = NAMES.mask("a").expand(BATCH, -1)
    for basis, size in ((Additive, 1e-3), (OneHot, 3e-3)):
        reference = build(KINDS[kind](), basis())
        expected = effect(lambda: reference(**inputs(), available=only_a), reference, size)  # noqa: B023
        for dtype in DTYPES:
            for cast in (True, False):
                adapted = build(KINDS[kind](), basis())
                given = inputs(dtype) if cast else inputs()
                if cast:
                    adapted.to(dtype)

                def run() -> Tensor:
                    with nullcontext() if cast else torch.autocast("cpu", dtype):  # noqa: B023
                        output: Tensor = adapted(**given, available=only_a)  # noqa: B023
                    assert output.dtype == dtype  # noqa: B023
                    return output

                found = effect(run, adapted, size)
                assert 0.6 < ratio(found, expected) < 1.6, (kind, basis, size, dtype, cast)


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "Bottleneck"])
def test_folded_networks_have_it_too(kind: str) -> None:
    only_a = NAMES.mask("a").expand(BATCH, -1)
    for dtype in DTYPES:
        adapted = build(KINDS[kind]()).to(dtype)
        with torch.no_grad():
            start = adapted.fold("a")(**inputs(dtype))
            torch.testing.assert_close(start, adapted(**inputs(dtype), available=only_a), rtol=0.01, atol=0.01)
        step(adapted, 3e-3)
        with torch.no_grad():
            folded = adapted.fold("a")
            found = folded(**inputs(dtype))
            hooked = adapted(**inputs(dtype), available=only_a)
        assert {parameter.dtype for parameter in folded.parameters()} == {dtype}
        torch.testing.assert_close(found, hooked, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 0.01)
        reference = build(KINDS[kind]())
        expected = effect(lambda: reference(**inputs(), available=only_a), reference, 3e-3)  # noqa: B023
        assert 0.5 < ratio(found.double() - start.double(), expected) < 1.7, dtype


def test_digits_round_back_to_every_value_and_are_spread_evenly() -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    for dtype in DTYPES:
        values = bits.view(dtype)
        values = values[~values.isnan()]
        assert torch.equal(finer(values).to(dtype), values)
        ones, zeros = torch.ones(1), torch.zeros(1)
        assert torch.equal(modulated_half(values, ones, zeros), values)
        assert torch.equal(plus(values, zeros), values)
        normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).to(dtype)
        for size in (1e-3, -1e-3, 1e-4, 3e-2):
            moved = modulated_half(normal, 1 + size * ones, None).double() - normal.double()
            assert ratio(moved, size * normal.double()) == pytest.approx(1, abs=0.1), (dtype, size)
            assert ratio(moved, size * normal.double()) == pytest.approx(1, abs=0.1)
            exact = finer(normal).double() * (1 + size)
            step = normal.double().abs() * torch.finfo(dtype).eps + torch.finfo(dtype).tiny
            assert bool(((normal.double() + moved - exact).abs() <= step).all())


def test_gradients_are_those_of_float32_and_are_summed_there() -> None:
    generator = torch.Generator().manual_seed(0)
    features, gradient = (torch.randn(64, 6, 50, generator=generator).half() for _ in range(2))
    features, gradient = features + 2, (gradient + 2) * 20  # in float16 the sum of their products overflows
    scale, shift = (torch.randn(64, 6, 1, generator=generator) for _ in range(2))
    for parts in ((scale, shift), (scale, None), (None, shift)):
        found, expected = [], []
        for run, store, dtype in (
            (lambda x, s, t: modulated_half(x, s, t), found, torch.float16),
            (lambda x, s, t: x * (1 if s is None else s) + (0 if t is None else t), expected, torch.float64),
        ):
            leaves = [features.detach().clone().to(dtype).requires_grad_()]
            leaves += [None if one is None else one.mean(0, keepdim=True).requires_grad_() for one in parts]  # type: ignore[misc]
            run(*leaves).backward(gradient.to(dtype))  # type: ignore[no-untyped-call]
            store += [leaf.grad for leaf in leaves if leaf is not None]
        for mine, theirs in zip(found, expected):
            torch.testing.assert_close(mine.double(), theirs.double(), rtol=2e-3, atol=2e-1)


def test_complete_samples_keep_every_bit_and_the_adapter_stays_in_float32() -> None:
    mixed = NAMES.masks()[torch.arange(BATCH) % 3]
    for dtype in DTYPES:
        for kind in KINDS:
            base = Network().eval().to(dtype)
            expected = base(**inputs(dtype))
            adapted = build(KINDS[kind]()).to(dtype)
            step(adapted, 0.1)
            assert {parameter.dtype for parameter in adapted.adapter.parameters()} == {torch.float32}, kind
            assert {parameter.dtype for parameter in adapted.base.parameters()} == {dtype}, kind
            output = adapted(**inputs(dtype), available=mixed)
            complete = mixed.all(1)
            assert torch.equal(output[complete], expected[complete]), kind
            assert not torch.equal(output[~complete], expected[~complete]), kind
    assert next(build(SSF()).double().adapter.parameters()).dtype == torch.float64
    before, network, call = torch.get_default_dtype(), Network().eval(), ((), inputs())
    torch.set_default_dtype(torch.bfloat16)
    try:
        adapter = adapt(network, NAMES, LoRA(2), example=call).adapter
        assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(before)


@pytest.mark.compiled
@pytest.mark.slow
def test_compiled_graphs_keep_the_step() -> None:
    only_a = NAMES.mask("a").expand(BATCH, -1)
    adapted = build(Together([LoRA(2), SSF()])).to(torch.bfloat16)
    reference = build(Together([LoRA(2), SSF()]))
    compiled = torch.compile(adapted, fullgraph=True)
    expected = effect(lambda: reference(**inputs(), available=only_a), reference, 3e-3)
    found = effect(lambda: compiled(**inputs(torch.bfloat16), available=only_a), adapted, 3e-3)
    assert 0.6 < ratio(found, expected) < 1.6
