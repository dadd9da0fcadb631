"""Outputs of layers changed in place in training: the same gradients from less memory, and only where nobody looks."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.adapters import SSF, Adapted, Additive, Basis, Kind, OneHot, ScaleOnly, adapt, hooks, load
from lightning_mm.adapters.call import AdapterCall
from lightning_mm.adapters.layers import in_place as in_place_module
from lightning_mm.adapters.layers.in_place import ModulateInPlace
from lightning_mm.adapters.layers.modulate import Modulate, _channels_first
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import randomise

NAMES = Modalities(["a", "b", "c"])


class Network(nn.Module):
    """Linear, norm and convolution layers; ``after`` is what it does with the output of ``first``."""

    def __init__(self, after: str = "") -> None:
        super().__init__()
        self.after = after
        self.first, self.norm, self.second = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.conv, self.head = nn.Conv1d(8, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Any:
        first = self.first(torch.cat([a, b, c], 2))
        if self.after == "relu":
            first = F.relu(first, inplace=True)
        elif self.after == "kept":
            self.features = first
        x = first + self.second(F.gelu(self.norm(first)))
        logits = self.head(F.gelu(self.conv(x.mT)).mean(2))
        return {"logits": logits, "features": first.flatten(1)} if self.after == "returned" else logits


def batch(size: int = 7, dtype: torch.dtype = torch.float32, steps: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(size, steps, 2, generator=generator, dtype=dtype) for name in NAMES}


def build(kind: Kind | None = None, basis: Basis | None = None, after: str = "", scale: float = 0.1) -> Adapted:
    torch.manual_seed(0)
    adapted = adapt(Network(after), NAMES, kind or SSF(), basis=basis or OneHot(), example=((), batch(2)))
    randomise(adapted.adapter.banks, scale=scale)
    return adapted


def gradients(adapted: Adapted, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    adapted.zero_grad()
    outputs = adapted(**inputs, available=NAMES.masks())
    outputs = outputs["logits"] if isinstance(outputs, dict) else outputs
    outputs.square().sum().backward()
    banks = dict(adapted.adapter.banks.named_parameters())
    return outputs.detach(), {name: p.grad.clone() for name, p in banks.items() if p.grad is not None}


def left_alone(adapted: Adapted) -> set[str]:
    return {site.name for site in adapted.adapter.sites if site.left_alone}


def in_place(adapted: Adapted, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the layers that are changed in place in a step."""
    found: list[str] = []
    allowed = hooks.may_overwrite

    def watched(module: nn.Module, output: Any, site: Any, invertible: bool) -> bool:
        answer = allowed(module, output, site, invertible)
        found.extend([site.name] * answer)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(hooks, "may_overwrite", watched)
        gradients(adapted, batch())
    return found


def out_of_place(adapted: Adapted, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(in_place_module, "ENABLED", False)
        return gradients(adapted, inputs)


@pytest.mark.parametrize("kind", [SSF(), ScaleOnly()], ids=["ssf", "scale"])
@pytest.mark.parametrize("basis", [OneHot(), Additive()], ids=["one-hot", "additive"])
def test_gradients_are_those_of_the_ordinary_way(kind: Kind, basis: Basis, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = build(kind, basis, scale=0.05).double()
    inputs = batch(dtype=torch.float64)
    outputs, ours = gradients(adapted, inputs)
    expected, theirs = out_of_place(adapted, inputs, monkeypatch)
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    assert ours.keys() == theirs.keys() != set()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("shape", "one", "as_batch_norm"),
    [
        ((4, 3, 5), (4, 3, 1), True),
        ((4, 3, 5, 6), (4, 3, 1, 1), True),
        ((4, 3, 5, 6), (1, 3, 1, 1), True),
        ((4, 3, 2, 3, 2), (4, 3, 1, 1, 1), True),
        ((4, 5, 3), (4, 1, 3), False),
        ((5, 4, 3), (1, 4, 3), False),
        ((4, 3), (4, 3), False),
    ],
)
def test_gradients_of_a_modulation(shape: tuple[int, ...], one: tuple[int, ...], as_batch_norm: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features, shift = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, one))
    scale = 0.5 + torch.rand(one, generator=generator, dtype=torch.float64)
    assert _channels_first(features, features, scale) == as_batch_norm
    assert not as_batch_norm or not _channels_first(features, features.transpose(0, 1), scale)
    given = [tensor.requires_grad_() for tensor in (features, scale, shift)]
    torch.testing.assert_close(Modulate.apply(*given), features * scale + shift)
    assert torch.autograd.gradcheck(Modulate.apply, given)
    assert torch.autograd.gradcheck(lambda x, *rest: ModulateInPlace.apply(x.clone(), *rest), given)
    assert torch.autograd.gradcheck(lambda x, scale: ModulateInPlace.apply(x.clone(), scale, None), given[:2])
    frozen = features.detach()
    assert torch.autograd.gradcheck(lambda *rest: Modulate.apply(frozen, *rest), given[1:])
    assert torch.autograd.gradcheck(lambda *rest: ModulateInPlace.apply(frozen.clone(), *rest), given[1:])


def test_layers_that_are_left_alone_and_those_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    within = {"first", "norm", "second", "conv"}
    assert left_alone(build()) == within, "what the network returns belongs to its caller"
    assert set(in_place(build(), monkeypatch)) == within
    for after in ("relu", "kept", "returned"):
        adapted = build(after=after)
        assert left_alone(adapted) == (within - {"first"} | ({"head"} & left_alone(adapted))), after
        assert "first" not in in_place(adapted, monkeypatch)


@pytest.mark.parametrize("after", ["", "relu", "kept", "returned"])
def test_gradients_in_single_precision(after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = build(after=after)
    expected, theirs = out_of_place(adapted, batch(), monkeypatch)
    outputs, ours = gradients(adapted, batch())
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


def test_less_is_kept_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(adapted: Adapted) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = adapted(**batch(steps=100), available=NAMES.masks())
        outputs.sum().backward()
        return sum(sizes.values())

    adapted = build()
    less = kept(adapted)
    monkeypatch.setattr(in_place_module, "ENABLED", False)
    assert less < 0.8 * kept(adapted)


@pytest.mark.parametrize("value", [-1.0, -0.999, float("nan")])
def test_scales_near_zero_are_not_divided_by(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = build()
    with torch.no_grad():
        adapted.adapter.banks["norm"].scale[2, 3] = value  # type: ignore[index, operator]
    assert "norm" not in in_place(adapted, monkeypatch)
    assert {"first", "second", "conv"} <= set(in_place(adapted, monkeypatch))
    expected, theirs = out_of_place(adapted, batch(), monkeypatch)
    outputs, ours = gradients(adapted, batch())
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)


def test_summed_rows_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of -0.5 make a scale of 0."""
    adapted = build(basis=Additive())
    with torch.no_grad():
        adapted.adapter.banks["second"].scale[:] = -0.5  # type: ignore[index, operator]
    assert "second" not in in_place(adapted, monkeypatch)
    assert "second" in in_place(build(basis=Additive(), scale=0.01), monkeypatch)


def test_hooks_of_others_see_the_output_of_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, seen = build(), []
    first: Any = adapted.base.first
    first.register_forward_hook(lambda module, args, output: seen.append(output), prepend=True)
    assert "first" not in in_place(adapted, monkeypatch)
    before = F.linear(torch.cat(list(batch().values()), 2), first.weight, first.bias)
    rows = NAMES.code(NAMES.masks()) == 7
    assert torch.equal(seen[0][rows], before[rows])
    assert seen[0].grad_fn is None


def test_two_calls_before_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = build()
    one, other = batch(), {name: 2 * value for name, value in batch().items()}
    (adapted(**one, available=NAMES.masks()) * adapted(**other, available=NAMES.masks())).sum().backward()
    ours = {name: p.grad.clone() for name, p in adapted.adapter.banks.named_parameters() if p.grad is not None}
    monkeypatch.setattr(in_place_module, "ENABLED", False)
    adapted.zero_grad()
    (adapted(**one, available=NAMES.masks()) * adapted(**other, available=NAMES.masks())).sum().backward()
    for name, parameter in adapted.adapter.banks.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_not_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = build()
    with torch.autocast("cpu", torch.bfloat16):
        assert set(in_place(adapted, monkeypatch)) <= {"norm"}, "layer norms stay in float32"


def test_what_the_example_told_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = build(after="relu")
    adapted.save(tmp_path)
    torch.manual_seed(0)
    again = load(tmp_path, Network("relu"))
    assert left_alone(again) == left_alone(adapted) != set()
    assert in_place(again, monkeypatch) == in_place(adapted, monkeypatch)


def test_a_network_that_turns_out_to_change_it_is_no_silent_error() -> None:
    adapted = build()
    adapted.base.after = "relu"
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(adapted, batch())


@pytest.mark.parametrize("basis", [OneHot, Additive])
def test_rows_of_all_layers_are_mixed_in_one_go(basis: type[Basis], monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, widths = build(basis=basis()), []
    mix = basis.mix

    def watched(self: Basis, route: Tensor, table: Tensor) -> Tensor:
        widths.append(table.shape[1])
        return mix(self, route, table)

    monkeypatch.setattr(basis, "mix", watched)
    once = adapted(**batch(), available=NAMES.masks())
    assert widths == [2 * sum(site.channels for site in adapted.adapter.sites)]
    monkeypatch.setattr(AdapterCall, "mix_ahead", lambda self, banks: None)
    torch.testing.assert_close(adapted(**batch(), available=NAMES.masks()), once, rtol=1e-6, atol=1e-6)
    assert len(widths) == 1 + 2 * len(adapted.adapter.sites)


def test_a_call_that_fails_leaves_nothing_that_cannot_be_copied() -> None:
    adapted = build()
    expected = adapted(**batch(), available=NAMES.masks())
    handle = adapted.base.conv.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        adapted(**batch(), available=NAMES.masks())
    handle.remove()
    for again in (adapted, copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert torch.equal(again(**batch(), available=NAMES.masks()), expected)
