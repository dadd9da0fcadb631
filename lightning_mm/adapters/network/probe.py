"""Find the layers that run and the axes of samples and channels in their outputs, by a few forwards of an example.

The batch axis is found by comparing two batch sizes, and the order inside a merged axis (B*T or T*B) by changing one
sample. The channel axis follows from the type of layers that run the ``forward`` of torch, and is found by changing one
entry of a weight or bias for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.layers.fold import fold_scale_shift
from lightning_mm.adapters.layers.foreign import own_tensors, role_of, with_tensors
from lightning_mm.adapters.layers.in_place import Outputs
from lightning_mm.adapters.layers.layout import Layout, Order, Site, changed_indices
from lightning_mm.adapters.layers.types import CHANNELS_LAST, Convolution, known_type
from lightning_mm.adapters.network.eval_mode import quiet
from lightning_mm.adapters.network.example import Example
from lightning_mm.errors import LightningMMError


class Unroutable(Exception):
    """A layer with outputs that cannot be assigned to samples; the message is the reason."""


_NO_CHANNELS = "its output is not a plain tensor, or has no channel axis"


def main_output(output: Any) -> Any:
    """Return the tensor that is adapted: the output, or the first item of a tuple (``nn.MultiheadAttention``)."""
    return output[0] if isinstance(output, tuple) else output


def probe(
    network: nn.Module,
    modules: Mapping[str, nn.Module],
    example: Example,
    grouped: bool = False,
    channels: Mapping[str, int | Mapping[int, int]] = MappingProxyType({}),
) -> tuple[dict[str, Site], dict[str, str]]:
    """Run the example and describe the outputs of ``modules``.

    Args:
        network: Run in eval mode without gradients; its modes and the global random state are restored.
        modules: Name to submodule of the network.
        example: A typical call.
        grouped: Whether the network runs on one combination at a time, so that the batch axis does not matter.
        channels: Channel axes that are already known, by module name; negative ones count from the last axis. One for
            all outputs, or one for each number of axes.

    Returns:
        The sites that can be adapted, and for the other modules the reason why not.
    """
    with quiet(network):
        three = _shapes(modules, example.of(3))
        seen = _Seen()
        two = _shapes(modules, example.of(2), seen, channels)
        reasons: dict[str, str] = {}
        layouts: dict[str, list[Layout]] = {}
        for name in modules:
            try:
                found_axes = seen.axes.get(name, {})
                layouts[name] = (_grouped if grouped else _layouts)(two[name], three[name], found_axes)
            except Unroutable as reason:
                reasons[name] = str(reason)
        merged = {
            name for name, found in layouts.items() if any(layout.order not in ("plain", "any") for layout in found)
        }
        if merged:
            _order_merged({name: modules[name] for name in merged}, example.of(2), layouts, reasons)
    sites = {
        name: Site(
            name,
            next(iter(seen.axes[name].values()))[1],
            tuple(found),
            foldable=name not in seen.unfoldable,
            left_alone=name in seen.left_alone,
        )
        for name, found in layouts.items()
        if name not in reasons
    }
    return sites, reasons


def _first_changed(leaf: Tensor) -> Tensor:
    changed = leaf.clone()
    if leaf.is_floating_point():
        changed[0] += (1 + leaf[0].abs()) * torch.randn_like(leaf[0])
    elif leaf.dtype != torch.bool and leaf[0].ndim:
        changed[0] = leaf[0].roll(1)
    return changed


@contextmanager
def _watch(modules: Mapping[str, nn.Module], note: Callable[[str, nn.Module, Any, Any, Any], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs, output: note(name, module, args, kwargs, main_output(output))

    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Seen:
    """Properties of layers that were observed in one call, by name."""

    axes: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    """Channel axis and number of channels, for each number of axes of the output."""
    unfoldable: set[str] = field(default_factory=set)
    left_alone: set[str] = field(default_factory=set)


def _shapes(
    modules: Mapping[str, nn.Module],
    example: Example,
    seen: _Seen | None = None,
    channels: Mapping[str, int | Mapping[int, int]] = MappingProxyType({}),
) -> dict[str, list[tuple[int, ...]]]:
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in modules}
    outputs = Outputs()

    def note(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) and not output.is_nested else ()
        shapes[name].append(shape)
        if seen is None or not shape:
            return
        outputs.note(name, output)
        axes = seen.axes.setdefault(name, {})
        if len(shape) in axes:
            return
        if name in channels:
            known = channels[name]
            at = known.get(len(shape)) if isinstance(known, Mapping) else known
            if at is not None:
                axes[len(shape)] = (at % len(shape), shape[at])
            return
        axis = _channel_axis(module, args, kwargs, output)
        if axis is not None:
            axes[len(shape)] = (axis, shape[axis])
            if not _folds(module, args, kwargs, output, axis):
                seen.unfoldable.add(name)

    with _watch(modules, note):
        returned = example.run()
    if seen is not None:
        seen.left_alone = outputs.left_alone(returned)
    return shapes


def _channel_axis(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> int | None:
    known = known_type(module)
    if known is not None:
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) != 1:
            return None
        if isinstance(module, Convolution):  # an unbatched input has one axis less
            return output.ndim - (3 if "1d" in known.__name__ else 4 if "2d" in known.__name__ else 5) + 1
        return output.ndim - 1 if issubclass(known, CHANNELS_LAST) else 1
    if role_of(module) in ("linear", "transposed"):
        return output.ndim - 1
    tensors = own_tensors(module)
    for entry in ("bias", "weight"):
        parameter = tensors.get(entry)
        if parameter is None or parameter.ndim == 0:
            continue
        for step in (1.0, -1.0, 30.0, -30.0):  # an activation inside the layer may hide small or one-sided steps
            altered = parameter.detach().clone()
            altered[0] += step * (1 + altered[0].abs())
            changed = with_tensors(module, **{entry: altered})
            after = main_output(type(module).forward(changed, *args, **kwargs))
            found = [
                axis
                for axis in range(output.ndim)
                if output.shape[axis] == len(altered) and changed_indices(output, after, axis).tolist() == [0]
            ]
            if len(found) == 1:
                return found[0]
    return None


def _folds(module: nn.Module, args: Any, kwargs: Any, output: Tensor, axis: int) -> bool:
    """Return whether a scale and a shift folded into the weights of a layer scale and shift its output."""
    if known_type(module) is not None or role_of(module) is not None:
        return True  # fold_scale_shift refuses the layers that cannot be folded
    channels = output.shape[axis]
    scale = torch.linspace(0.5, 1.5, channels, dtype=output.dtype, device=output.device)
    shift = torch.linspace(-1.0, 1.0, channels, dtype=output.dtype, device=output.device)
    folded = with_tensors(module)
    try:
        fold_scale_shift(folded, scale, shift)
    except LightningMMError:
        return False
    shape = [channels if i == axis else 1 for i in range(output.ndim)]
    expected = output * scale.view(shape) + shift.view(shape)
    after = main_output(type(module).forward(folded, *args, **kwargs))
    return torch.allclose(after, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _grouped(
    two: list[tuple[int, ...]], three: list[tuple[int, ...]], axes: dict[int, tuple[int, int]]
) -> list[Layout]:
    """Return layouts with a known channel axis; the batch axis is kept if it is known too."""
    try:
        found = _layouts(two, three, axes)
    except Unroutable:
        found = []
    if found and all(layout.order == "plain" for layout in found):
        return found
    if not two:
        raise Unroutable("it never runs as a module in the example")
    if any(len(shape) not in axes for shape in two):
        raise Unroutable(_NO_CHANNELS)
    return [Layout(ndim, 0 if axis else 1, axis, "any") for ndim, (axis, _) in axes.items()]


def _layouts(
    two: list[tuple[int, ...]], three: list[tuple[int, ...]], axes: dict[int, tuple[int, int]]
) -> list[Layout]:
    if not two:
        raise Unroutable("it never runs as a module in the example")
    if len(two) != len(three):
        raise Unroutable("the number of its runs depends on the batch size")
    found: dict[int, Layout] = {}
    for small, large in zip(two, three):
        if len(small) not in axes:
            raise Unroutable(_NO_CHANNELS)
        differing = [axis for axis, (a, b) in enumerate(zip(small, large)) if a != b]
        if len(small) != len(large) or len(differing) != 1:
            raise Unroutable("its output does not grow with the batch, so it is shared by all samples")
        axis, channel_axis = differing[0], axes[len(small)][0]
        if 3 * small[axis] != 2 * large[axis] or axis == channel_axis:
            raise Unroutable(f"its batch axis is unknown: output {list(small)} for 2 samples, {list(large)} for 3")
        order: Order = "plain" if small[axis] == 2 else "sample_major"
        layout = Layout(len(small), axis, channel_axis, order)
        if found.setdefault(layout.ndim, layout) != layout:
            raise Unroutable("it runs several times with samples on different axes")
    return list(found.values())


def _order_merged(
    modules: Mapping[str, nn.Module],
    example: Example,
    layouts: dict[str, list[Layout]],
    reasons: dict[str, str],
) -> None:
    """Distinguish B*T from T*B: if the first sample changes, only its entries may change."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def note(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        outputs[name].append(output)

    with _watch(modules, note):
        example.run()
    before, outputs = outputs, {name: [] for name in modules}
    with _watch(modules, note):
        example.run(example.change(_first_changed))
    for name in modules:
        orders: dict[int, Order] = {}
        for old, new in zip(before[name], outputs[name]):
            layout = next(layout for layout in layouts[name] if layout.ndim == old.ndim)
            if layout.order == "plain":
                continue
            size = old.shape[layout.batch_axis]
            rows = set(changed_indices(old, new, layout.batch_axis).tolist())
            first_half, even = set(range(size // 2)), set(range(0, size, 2))
            fits: list[Order] = [o for o, part in (("sample_major", first_half), ("step_major", even)) if rows <= part]  # type: ignore[misc]
            if not rows or len(fits) != 1 or orders.setdefault(old.ndim, fits[0]) != fits[0]:
                reasons[name] = "the order of samples and steps inside its batch axis is unknown"
        layouts[name] = [
            Layout(layout.ndim, layout.batch_axis, layout.channel_axis, orders.get(layout.ndim, layout.order))
            for layout in layouts[name]
        ]
