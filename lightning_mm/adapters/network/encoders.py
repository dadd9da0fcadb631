"""Which modules encode one modality and nothing else, sample by sample: told by trial on the example.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.network.inputs import Call, InputPath, parameter_path
from lightning_mm.errors import LightningMMError
from lightning_mm.tree import map_tensors, take_rows, tensors_of


def find_encoders(
    network: nn.Module,
    modalities: Sequence[str],
    encoders: Mapping[str, str] | None,
    paths: Mapping[str, InputPath],
    example: Call,
    size: int,
) -> dict[str, str]:
    """The encoders that may run on some rows alone, by trial on the example.

    Args:
        network: The base, in any mode.
        modalities: Names in order.
        encoders: Modality to the name of its encoder; None takes those of ``network.encoders`` that are called like
            modalities and stand the trial.
        paths: Where each modality's input lies in a call.
        example: A call of ``size`` samples, at least two.

    Raises:
        LightningMMError: If an encoder that was named does not exist or does not stand the trial.
    """
    named = encoders is not None
    if encoders is None:
        own = getattr(network, "encoders", None)
        own = own if isinstance(own, nn.ModuleDict) else {}
        encoders = {name: f"encoders.{name}" for name in modalities if name in own}
    modules = dict(network.named_modules())
    for modality, name in encoders.items():
        if modality not in modalities or name not in modules:
            raise LightningMMError(
                f"encoders={{{modality!r}: {name!r}}}: expected a modality out of {list(modalities)} and the name of "
                f"its encoder, a module of {type(network).__name__} such as {[n for n in modules if n][:5]}"
            )
    reasons = {
        modality: _trial(network, modules[name], modality, paths, example, size) for modality, name in encoders.items()
    }
    wrong = {modality: reason for modality, reason in reasons.items() if reason is not None}
    if named and wrong:
        modality, reason = next(iter(wrong.items()))
        raise LightningMMError(
            f"encoder {encoders[modality]!r} of modality {modality!r} cannot run on some of the samples alone: "
            f"{reason}; leave it out of `encoders`"
        )
    return {modality: name for modality, name in encoders.items() if modality not in wrong}


def _trial(
    network: nn.Module, encoder: nn.Module, modality: str, paths: Mapping[str, InputPath], example: Call, size: int
) -> str | None:
    """Why an encoder needs the whole batch or more than its modality, or None; the network is in eval mode."""
    seen: list[tuple[Call, Any]] = []

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # copies: the network may change them in place
        seen.append(map_tensors(((args, kwargs), output), lambda leaf: leaf.clone()))

    own = paths[modality].get(example)
    if own is None:
        return "the example has no input of its modality"
    available = parameter_path(network, "available")
    own = _disturbed(own, seed=0)  # samples of an example may be copies of one another
    handle = encoder.register_forward_hook(note, with_kwargs=True)
    try:
        for seed in (1, 2):
            call: Call = _disturbed(example, seed)
            call = paths[modality].put(call, own)
            mask = available.get(call) if available else None
            if available and isinstance(mask, Tensor):
                mask[:, list(paths).index(modality)] = True
                call = available.put(call, mask)
            network(*call[0], **call[1])
    except Exception as error:  # of a network that takes no other values, e.g. ids that must come in order
        return f"the network does not run on changed inputs ({type(error).__name__}: {error})"
    finally:
        handle.remove()
    if len(seen) != 2:
        return f"it runs {len(seen) / 2:g} times in one call of the network, not once"
    ((args, kwargs), output), (other, _) = seen
    if not same_tensors((args, kwargs), other):
        return "what it is given depends on more than its modality"
    given, returned = tensors_of((args, kwargs)), tensors_of(output)
    if not given or not returned or any(not leaf.ndim or leaf.shape[0] != size for leaf in (*given, *returned)):
        return "its inputs and outputs are not tensors, batch first"
    rows = torch.arange(size - 1, 0, -1)  # all but the first, in another order
    part = take_rows((args, kwargs), rows, size)
    try:
        alone = encoder(*part[0], **part[1])
    except Exception as error:
        return f"it does not run on its own ({type(error).__name__}: {error})"
    if not same_tensors(alone, take_rows(output, rows, size)):
        return "its output for a sample depends on the other samples"
    return None


def _disturbed(nest: Any, seed: int) -> Any:
    """Other values in every tensor: noise for numbers, other places for whole ones, other flags (not all False)."""
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
    """Whether two nests hold as many tensors, of equal shapes and of values that are equal but for rounding."""
    pairs = list(zip(tensors_of(one), tensors_of(other)))
    return len(tensors_of(one)) == len(tensors_of(other)) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in pairs
    )
