"""Compare a folded network with the network that it was folded from, and find the layer that makes them differ.

Shapes: B samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.network.inputs import Call, parameter_path
from lightning_mm.errors import LightningMMError
from lightning_mm.tree import batch_size, map_tensors, tensors_of

CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Differences by rounding, relative to the largest value, by the coarsest dtype that takes part."""
AMPLIFIED = 100
"""A network may amplify differences by rounding this many times, if each layer by itself agrees."""


class Proof:
    """The comparison of one folded network with its base on an example.

    Args:
        base: The network with the hooks of the adapter.
        adapter: The adapter.
        available: The combination as ``Bool[M]``.
        example: A call of the base.
        layers: The layers whose weights were changed: name to the layer in the base and in the folded network.
    """

    def __init__(
        self,
        base: nn.Module,
        adapter: Adapter,
        available: Tensor,
        example: Call,
        layers: Mapping[str, tuple[nn.Module, nn.Module]],
    ) -> None:
        self.base, self.adapter, self.layers = base, adapter, layers
        reference = next((p for p in base.parameters() if p.is_floating_point()), None)
        half = reference is not None and reference.dtype in (torch.float16, torch.bfloat16)

        def fitting(leaf: Tensor) -> Tensor:  # a network may have been moved or cast since it was adapted
            leaf = leaf.detach().to(adapter.device)
            return leaf.to(reference.dtype) if half and leaf.is_floating_point() else leaf  # type: ignore[union-attr]

        self.example: Call = map_tensors(example, fitting)
        size = next((n for path in adapter.paths.values() if (n := batch_size(path.get(self.example))) is not None), 1)
        self.available = available.expand(size, -1)
        path = parameter_path(base, "available")
        if path is not None:
            self.example = path.put(self.example, self.available)

    def check(self, folded: nn.Module, combination: str, given: bool) -> None:
        """Raise a LightningMMError that names the layer if a folded network differs from its base.

        Args:
            folded: The folded network.
            combination: Its combination, for messages.
            given: Whether the example was given to ``fold``; other checks then say why it does not fit.
        """
        try:
            expected = self._hooked()
        except Exception as error:
            if not given:
                warnings.warn(
                    f"the network folded for {combination!r} was not compared with the adapted one, which does not run "
                    f"on the example that it was adapted with ({type(error).__name__}: {error}); pass `example`",
                    stacklevel=5,
                )
            return
        try:
            found = self._seeded(lambda: folded(*self.example[0], **self.example[1]))
        except Exception as error:
            raise LightningMMError(
                f"{combination!r} cannot be folded: the adapted network runs on the example and the folded one does "
                f"not ({type(error).__name__}: {error}); keep the hooks instead"
            ) from error
        apart = difference(found, expected)
        if apart <= 1:
            return
        wrong = self._first_wrong_layer()
        if wrong is None and (apart <= AMPLIFIED or difference(self._hooked(), expected) > 1):
            return  # rounding, or a network whose outputs differ between calls
        if wrong is None:
            wrong = self._read_elsewhere(folded, expected, apart)
            where = "the network uses the weights of this layer outside of its call (tied weights, `x @ layer.weight`)"
        else:
            where = "something besides its weights changes what it does (a global hook, a change after adapting)"
        if wrong is None:
            raise LightningMMError(
                f"{combination!r} cannot be folded: on the example the folded network differs from the adapted one, "
                "and no single layer explains it (its weights are used outside of its call, or a part of the network "
                "was replaced, compiled or given another `forward` after adapting); keep the hooks instead"
            )
        raise LightningMMError(
            f"layer {wrong!r} cannot be folded: on the example the network folded for {combination!r} differs from the "
            f"adapted one there; {where}; keep the hooks, or leave the layer out with `exclude`"
        )

    def _hooked(self) -> Any:
        with self.adapter.current.setting(self.available, True, True):
            return self._seeded(lambda: self.base(*self.example[0], **self.example[1]))

    def _seeded(self, run: Callable[[], Any]) -> Any:
        """Run without gradients and with the same random numbers each time."""
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            return map_tensors(run(), lambda leaf: leaf.clone())

    def _first_wrong_layer(self) -> str | None:
        """Run the base, and each changed layer beside its original on the same inputs."""
        wrong: list[str] = []

        def watch(name: str, layer: nn.Module, twin: nn.Module) -> list[Any]:
            given: list[Call] = []

            def before(module: nn.Module, args: Any, kwargs: Any) -> None:
                given.append(map_tensors((args, kwargs), lambda leaf: leaf.clone()))

            def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                call = given.pop()
                if not wrong and difference(twin(*call[0], **call[1]), output) > 1:
                    wrong.append(name)

            return [
                layer.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
                layer.register_forward_hook(after, with_kwargs=True),
            ]

        handles = [handle for name, pair in self.layers.items() for handle in watch(name, *pair)]
        try:
            self._hooked()
        finally:
            for handle in handles:
                handle.remove()
        return wrong[0] if wrong else None

    def _read_elsewhere(self, folded: nn.Module, expected: Any, apart: float) -> str | None:
        """Find the layer that makes the most of the difference: with its own call on changed weights and others not."""
        best: tuple[float, str | None] = (0.5 * apart, None)
        for name, (layer, twin) in self.layers.items():
            try:
                found = self._seeded(partial(self._with_old_weights, folded, layer, twin))
            except Exception:
                continue
            best = min(best, (difference(found, expected), name), key=lambda pair: pair[0])
        return best[1]

    def _with_old_weights(self, folded: nn.Module, layer: nn.Module, twin: nn.Module) -> Any:
        """Run the folded network while a layer has its old weights, except in its own calls."""
        parts = [
            (mine, dict(mine._parameters), {key: old._parameters.get(key) for key in mine._parameters})
            for mine, old in zip(twin.modules(), layer.modules())
        ]

        def use_old(*_: Any) -> None:
            for part, _changed, old in parts:
                part._parameters.update(old)

        def use_changed(*_: Any) -> None:
            for part, changed, _old in parts:
                part._parameters.update(changed)

        handles = [twin.register_forward_pre_hook(use_changed), twin.register_forward_hook(use_old)]
        use_old()
        try:
            return folded(*self.example[0], **self.example[1])
        finally:
            for handle in handles:
                handle.remove()
            use_changed()


def difference(found: Any, expected: Any) -> float:
    """Measure how far two nests of tensors are apart, in units of the rounding that is allowed.

    Whole numbers are compared only if there are no others: a class may change by rounding.
    """
    pairs = list(zip(tensors_of(found), tensors_of(expected)))
    if len(tensors_of(found)) != len(tensors_of(expected)) or any(a.shape != b.shape for a, b in pairs):
        return torch.inf
    inexact = [(a, b) for a, b in pairs if b.is_floating_point() or b.is_complex()]
    if not inexact:
        return 0.0 if all(torch.equal(a, b) for a, b in pairs) else torch.inf
    coarsest = max((CLOSE.get(one.dtype, 1e-4) for pair in inexact for one in pair), default=1e-4)
    largest = 0.0
    for a, b in inexact:
        if not a.numel():
            continue
        a, b = (one.to(torch.complex128 if one.is_complex() else torch.float64) for one in (a, b))
        same = (a == b) | (a.isnan() & b.isnan())
        if not (same | (a.isfinite() & b.isfinite())).all():
            return torch.inf
        apart = torch.where(same, 0.0, (a - b).abs()).max()
        scale = torch.where(b.isfinite(), b.abs(), 0.0).max()
        largest = max(largest, float(apart / scale.clamp(min=1e-30)) / coarsest)
    return largest
