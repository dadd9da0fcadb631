"""Replace encoders of absent modalities by constants: in a folded network they get the same fill in every call.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_mm.adapters.hooks import SiteHook
from lightning_mm.adapters.network.encoders import same_tensors
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.errors import LightningMMError
from lightning_mm.tree import map_tensors, tensors_of


class OneRowForward:
    """A replacement for the ``forward`` of an encoder of an absent modality, in a folded network.

    All rows of its input are equal: the encoder runs on the first, and the result is repeated for all.

    Args:
        encoder: The encoder.
        modality: Name of its modality.
    """

    def __init__(self, encoder: nn.Module, modality: str) -> None:
        self.encoder, self.modality = encoder, modality
        self.own = vars(encoder).get("forward")  # set on the object

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        size = tensors_of((args, kwargs))[0].shape[0]
        first = map_tensors((args, kwargs), lambda leaf: leaf[:1])
        if self.own is not None:
            output = self.own(*first[0], **first[1])
        else:
            output = type(self.encoder).forward(self.encoder, *first[0], **first[1])
        # contiguous, so no two rows share memory: the network may change them in place
        return map_tensors(output, lambda leaf: leaf.expand(size, *leaf.shape[1:]).contiguous())


class ConstantForward:
    """A replacement for the ``forward`` of an encoder that returns its stored output for the fill.

    The output is stored in the encoder's buffers and replaces all its weights.

    Args:
        encoder: The encoder; its parameters, buffers and children are removed.
        given: The arguments that it was called with.
        output: Its output, of one row or of several equal ones.
    """

    def __init__(self, encoder: nn.Module, given: Any, output: Any) -> None:
        self.encoder, self.shapes = encoder, [tuple(leaf.shape[1:]) for leaf in tensors_of(given)]
        encoder._modules.clear()
        encoder._parameters.clear()
        encoder._buffers.clear()
        for place, leaf in enumerate(tensors_of(output)):
            encoder.register_buffer(f"constant_{place}", leaf[:1].detach().clone())
        self.form = map_tensors(output, lambda leaf: torch.empty(0))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = tensors_of((args, kwargs))
        shapes = [tuple(leaf.shape[1:]) for leaf in given]
        if shapes != self.shapes:
            raise LightningMMError(
                f"the encoder of an absent modality ({type(self.encoder).__name__}) is a constant for inputs of shapes "
                f"{self.shapes} after the batch axis, as in the example it was folded with, got {shapes}; fold without "
                "`example`, or with one of these shapes"
            )
        rows, size = iter(self.encoder._buffers.values()), given[0].shape[0]

        def repeated(placeholder: torch.Tensor) -> torch.Tensor:
            row = next(rows)
            assert row is not None
            # a copy: the network may change it in place
            return row.expand(size, *row.shape[1:]).clone(memory_format=torch.contiguous_format)

        return map_tensors(self.form, repeated)


@torch.no_grad()
def fold_constant_encoders(
    folded: nn.Module, combination: str, example: Call, modalities: Sequence[str] | None = None
) -> list[str]:
    """Replace the encoders of absent modalities by constants, for inputs with the shapes of the example.

    Args:
        folded: A folded network, changed in place; unusable after an error.
        combination: Its combination, for messages.
        example: ``(args, kwargs)`` of a typical call.
        modalities: The modalities to replace encoders of; default: all absent ones.

    Returns:
        The modalities with encoders that are now constants.

    Raises:
        LightningMMError: If the network does not run on the example, or reads the weights of an encoder itself.
    """
    encoders = {
        module.__dict__["forward"].modality: module
        for module in folded.modules()
        if isinstance(module.__dict__.get("forward"), OneRowForward)
    }
    encoders = {name: module for name, module in encoders.items() if modalities is None or name in modalities}
    if not encoders:
        return []
    seen: dict[str, tuple[Any, Any]] = {}
    # a prediction from other encoders is no part of the constant
    predictions = {module: _without_predictions(module) for module in encoders.values()}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            # a copy: the network may change it in place
            seen[name] = ((args, kwargs), map_tensors(output, lambda leaf: leaf[:1].clone()))

        return hook

    handles = [module.register_forward_hook(note(name), with_kwargs=True) for name, module in encoders.items()]
    try:
        before = folded(*example[0], **example[1])
    except Exception as error:
        raise LightningMMError(
            f"the network folded for {combination!r} does not run on `example` ({type(error).__name__}: {error})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    for name, (given, output) in seen.items():
        encoders[name].__dict__["forward"] = ConstantForward(encoders[name], given, output)
        encoders[name]._forward_hooks.clear()  # they are part of the constant
    try:
        after = folded(*example[0], **example[1])
    except Exception as error:
        raise LightningMMError(
            f"the encoders of {', '.join(seen)} cannot be constants: the network reads their attributes itself "
            f"({type(error).__name__}: {error}); fold without `example`"
        ) from error
    if not same_tensors(before, after):
        raise LightningMMError(
            f"the encoders of {', '.join(seen)} cannot be constants: their outputs differ between calls; "
            "fold without `example`"
        )
    for module, hooks in predictions.items():
        module._forward_hooks.update(hooks)
    return list(seen)


def _without_predictions(module: nn.Module) -> dict[int, Any]:
    """Take the hooks of the adapter off an encoder and return them."""
    hooks = {key: hook for key, hook in module._forward_hooks.items() if isinstance(hook, SiteHook)}
    for key in hooks:
        del module._forward_hooks[key]
    return hooks
