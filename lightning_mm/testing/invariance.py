"""Check that values of absent modalities cannot change the outputs or gradients of a network.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Fill, fill_inputs
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.tree import batch_size, is_column, leaves_of, map_leaves, take_rows, tensors_of


def assert_missing_invariant(
    network: Callable[..., Any],
    modalities: Sequence[str],
    inputs: Mapping[str, Nest],
    *,
    combinations: Sequence[str] | None = None,
    fill: Fill | None = None,
    available_argument: str | None = "available",
    poisons: Sequence[float] = (math.nan, 1e9),
    check_gradients: bool = True,
    seed: int = 0,
) -> None:
    """Assert that values of absent modalities do not change a bit of outputs and parameter gradients.

    Every combination is tried for the whole batch, then all combinations in one batch (row i has the i-th one, starting
    over after the last). Random layers draw the same numbers in each call, and running statistics are restored.

    Args:
        network: Any module or function, called as ``network(inputs, available=mask)``.
        modalities: Names of the columns of the mask, in order.
        inputs: ``{modality: nest of [B, ...]}`` with proper values everywhere.
        combinations: The combinations to try; default: all.
        fill: Applied to the inputs before each call, for networks that need a fill outside of them.
        available_argument: Name of the mask parameter; ``None`` for a network that takes only the inputs (then a fill
            must protect it).
        poisons: Values for absent entries of float tensors; integer and bool tensors get other values within their
            range, so that they stay valid ids, and texts are replaced by texts of other samples.
        check_gradients: Whether to compare the gradients of all parameters of network and fill as well.
        seed: Seed of the random numbers that the network draws.

    Raises:
        AssertionError: If something changes; the message names the combination, the poison and the changed value.
        LightningMMError: If ``inputs`` or ``combinations`` do not fit ``modalities``.

    Example:
        >>> def late_mean(inputs, available):
        ...     rows = torch.stack([inputs["a"], inputs["b"]], dim=1)
        ...     return torch.where(available, rows, 0.0).sum(1) / available.sum(1)
        >>> assert_missing_invariant(late_mean, ["a", "b"], {"a": torch.ones(3), "b": torch.ones(3)})
    """
    names = Modalities(modalities)
    if set(inputs) != set(names):
        raise LightningMMError(f"inputs must hold one entry for each of {list(names)}, got {list(inputs)}")
    size = batch_size(inputs)
    if size is None:
        raise LightningMMError(f"inputs hold nothing with one row per sample; expected tensors, got {inputs}")
    selected = names.select(combinations)
    masks = {name: names.mask(name).expand(size, -1).clone() for name in selected}
    if size > 1 and len(selected) > 1:
        masks["mixed batch"] = names.masks(selected)[torch.arange(size) % len(selected)]

    def run(values: Mapping[str, Nest], available: Tensor) -> dict[str, Tensor]:
        return _run(network, names, values, available, fill, available_argument, check_gradients, seed)

    device = next((tensor.device for tensor in tensors_of(inputs)), None)
    for combination, mask in masks.items():
        if mask.all():
            continue
        available = mask.to(device)
        expected = run(inputs, available)
        for poison in poisons:
            poisoned = {
                name: _poisoned(inputs[name], available[:, position], poison) for position, name in enumerate(names)
            }
            _compare(expected, run(poisoned, available), combination, poison)


def _run(
    network: Callable[..., Any],
    names: Modalities,
    inputs: Mapping[str, Nest],
    available: Tensor,
    fill: Fill | None,
    available_argument: str | None,
    check_gradients: bool,
    seed: int,
) -> dict[str, Tensor]:
    """Return outputs and gradients by name; buffers of the network are restored."""
    modules = [part for part in (network, fill) if isinstance(part, nn.Module)]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    wanted = {
        f"{'fill.' if module is fill else ''}{name}": parameter
        for module in modules
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    devices = [available.device] if available.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(check_gradients):
        torch.manual_seed(seed)
        values = dict(inputs) if fill is None else fill_inputs(fill, names, inputs, available)
        outputs = network(values) if available_argument is None else network(values, **{available_argument: available})
        results = {f"output{path}": leaf for path, leaf in output_tensors(outputs)}
        if not results:
            raise LightningMMError(f"the network returned no tensor but {type(outputs).__name__}")
        differentiable = [leaf for leaf in results.values() if leaf.requires_grad]
        if check_gradients and wanted and differentiable:
            # random weights, as the plain sum of a softmax has no gradient
            generator = torch.Generator().manual_seed(seed)
            total = torch.stack(
                [
                    (leaf * torch.randn(leaf.shape, generator=generator).to(leaf)).sum().real.double()
                    for leaf in differentiable
                ]
            ).sum()
            gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
            results |= {f"gradient of {name}": g for name, g in zip(wanted, gradients) if g is not None}
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return {name: value.detach() for name, value in results.items()}


def _poisoned(nest: Nest, present: Tensor, poison: float) -> Nest:
    return map_leaves(nest, lambda path, leaf: _poison(leaf, present, poison), (), is_column)


def _poison(leaf: Any, present: Tensor, poison: float) -> Any:
    """Return a leaf of the inputs with other values in absent entries."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
        return _poison(torch.as_tensor(leaf), present.cpu(), poison).numpy()
    if not isinstance(leaf, Tensor):  # texts: that of another sample
        rows = torch.arange(len(present)) - (~present).long().cpu()
        return take_rows(leaf, rows % len(present), len(present))
    if leaf.is_floating_point() or leaf.is_complex():
        other = torch.full_like(leaf, poison)
    elif leaf.dtype == torch.bool:
        other = ~leaf
    elif leaf.numel() and leaf.min() < leaf.max():
        other = leaf.min() + leaf.max() - leaf
    else:
        other = torch.where(leaf > 0, leaf - 1, leaf + 1)
    return torch.where(present.view(-1, *[1] * (leaf.ndim - 1)), leaf, other)


def output_tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Iterate over the tensors of outputs with their paths, also in dataclasses (the outputs of many libraries)."""
    for keys, leaf in leaves_of(value):
        name = path + "".join([f"[{key!r}]" for key in keys])
        if isinstance(leaf, Tensor):
            yield name, leaf
        elif hasattr(leaf, "__dataclass_fields__"):
            for field in leaf.__dataclass_fields__:
                yield from output_tensors(getattr(leaf, field), f"{name}.{field}")


def _compare(expected: dict[str, Tensor], got: dict[str, Tensor], combination: str, poison: float) -> None:
    where = f"combination {combination!r}, {poison} in absent entries"
    if expected.keys() != got.keys():
        changed = sorted(expected.keys() ^ got.keys())
        raise AssertionError(f"{where}: {changed} exist only with, or only without, the poison")
    for name, before in expected.items():
        after = got[name]
        if before.shape != after.shape:
            raise AssertionError(f"{where}: {name} changed shape {tuple(before.shape)} -> {tuple(after.shape)}")
        same = (before == after) | ((before != before) & (after != after))
        if not same.all():
            share = 1 - same.double().mean().item()
            raise AssertionError(
                f"{where}: {name} changed in {share:.1%} of its values, e.g. {before[~same][0].item()} -> "
                f"{after[~same][0].item()}; absent values leak (a product with 0 keeps NaN: use torch.where, or a fill)"
            )
