"""Find by trial on the example the modules that encode one modality and nothing else, sample by sample.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.network.example import Example, free_sizes
from lightning_mm.adapters.network.inputs import Call, InputPath, parameter_path
from lightning_mm.errors import LightningMMError
from lightning_mm.tree import is_column, leaves_of, map_tensors, rows_of, take_rows, tensors_of


def find_encoders(
    network: nn.Module,
    modalities: Sequence[str],
    encoders: Mapping[str, str] | None,
    paths: Mapping[str, InputPath],
    example: Example,
) -> dict[str, str]:
    """Find the encoders that may run on a part of the samples, by trial on the example.

    Args:
        network: The base, in eval mode.
        modalities: Names in order.
        encoders: Modality to the name of its encoder; None selects the modules of ``network.encoders`` that are named
            like modalities and pass the trial.
        paths: Path to the input of each modality in a call.
        example: A typical call.

    Raises:
        LightningMMError: If an encoder that was named does not exist or does not pass the trial.
    """
    named = encoders is not None
    if encoders is None:
        children = getattr(network, "encoders", None)
        children = children if isinstance(children, nn.ModuleDict) else {}
        encoders = {name: f"encoders.{name}" for name in modalities if name in children}
    modules = dict(network.named_modules())
    for modality, name in encoders.items():
        if modality not in modalities or name not in modules:
            raise LightningMMError(
                f"encoders={{{modality!r}: {name!r}}}: expected one of the modalities {list(modalities)} and the name "
                f"of its encoder, a module of {type(network).__name__} such as {[n for n in modules if n][:5]}"
            )
    example = example.of(next(free_sizes(network, example.call)))  # no other length can be taken for that of the batch
    reasons = {
        modality: _trial(network, modules[name], modality, paths, example.call, example.size)
        for modality, name in encoders.items()
    }
    wrong = {modality: reason for modality, reason in reasons.items() if reason is not None}
    if named and wrong:
        modality, reason = next(iter(wrong.items()))
        raise LightningMMError(
            f"encoder {encoders[modality]!r} of modality {modality!r} cannot run on a part of the samples: "
            f"{reason}; leave it out of `encoders`"
        )
    return {modality: name for modality, name in encoders.items() if modality not in wrong}


def _trial(
    network: nn.Module, encoder: nn.Module, modality: str, paths: Mapping[str, InputPath], example: Call, size: int
) -> str | None:
    """Return why an encoder needs the whole batch or more than its modality, or None if it does not.

    The network must be in eval mode.
    """
    if isinstance(encoder, torch.jit.ScriptModule):
        return "it is compiled by torch.jit.script, which allows no hooks with keyword arguments"
    seen: list[tuple[Call, Any]] = []

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # copies: the network may change them in place
        seen.append(map_tensors(((args, kwargs), output), lambda leaf: leaf.clone()))

    value = paths[modality].get(example)
    if value is None:
        return "the example has no input for its modality"
    available = parameter_path(network, "available")
    value = _disturbed(value, seed=0)  # samples of an example may be copies of each other
    handle = encoder.register_forward_hook(note, with_kwargs=True)
    try:
        for seed in (1, 2):
            call: Call = _disturbed(example, seed)
            call = paths[modality].put(call, value)
            mask = available.get(call) if available else None
            if available and isinstance(mask, Tensor):
                mask[:, list(paths).index(modality)] = True
                call = available.put(call, mask)
            network(*call[0], **call[1])
    except Exception as error:  # the network accepts no other values, e.g. ids that must be in order
        return f"the network does not run on changed inputs ({type(error).__name__}: {error})"
    finally:
        handle.remove()
    if len(seen) != 2:
        return f"it runs {len(seen) / 2:g} times in one call of the network, not once"
    ((args, kwargs), output), (other, _) = seen
    if not same_tensors((args, kwargs), other):
        return "its input depends on more than its modality"
    if not _batch_first((args, kwargs), size) or not _batch_first(output, size):
        return "its inputs and outputs are not tensors, batch first"
    rows = torch.arange(size - 1, 0, -1)  # all but the first, in reverse order
    part = take_rows((args, kwargs), rows, size)
    try:
        alone = encoder(*part[0], **part[1])
    except Exception as error:
        return f"it does not run on its own ({type(error).__name__}: {error})"
    if not same_tensors(alone, take_rows(output, rows, size)):
        return "its output for a sample depends on the other samples"
    return None


def _batch_first(nest: Any, size: int) -> bool:
    """Return whether a nest has tensors, all with one row per sample, and nothing else with one row per sample."""
    others = [leaf for _, leaf in leaves_of(nest, is_column) if not isinstance(leaf, Tensor)]
    tensors = tensors_of(nest)
    return bool(tensors) and {rows_of(leaf) for leaf in tensors} == {size} and all(rows_of(o) != size for o in others)


def _disturbed(nest: Any, seed: int) -> Any:
    """Change every tensor of a nest: add noise to floats, permute integers, draw new flags (not all False)."""
    generator = torch.Generator().manual_seed(seed)

    def change(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point():
            noise = torch.randn(leaf.shape, generator=generator).to(leaf)
            return leaf + (0.1 + leaf.abs()) * noise
        if not leaf.ndim:
            return leaf
        if leaf.dtype == torch.bool:
            flags = torch.rand(leaf.shape, generator=generator) < 0.5
            flags[..., 0] |= ~flags.any(-1)
            return flags.to(leaf.device)
        for axis in range(leaf.ndim):
            leaf = leaf.index_select(axis, torch.randperm(leaf.shape[axis], generator=generator).to(leaf.device))
        return leaf

    return map_tensors(nest, change)


def same_tensors(one: Any, other: Any) -> bool:
    """Return whether two nests hold tensors of the same number and shapes, with values equal up to rounding."""
    pairs = list(zip(tensors_of(one), tensors_of(other)))
    return len(tensors_of(one)) == len(tensors_of(other)) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in pairs
    )
