"""The check that values of absent inputs reach neither outputs nor gradients, and where they arrive if they do.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lightning_mm.adapters.network.example import bound_arguments
from lightning_mm.missing.fills import Nest
from lightning_mm.testing.check_runs import MOST_COMBINATIONS, Subject, Wrong, first_apart, same, seeded
from lightning_mm.testing.invariance import assert_missing_invariant
from lightning_mm.tree import Path, is_column, map_leaves, tensors_of


def absent_inputs_have_no_effect(subject: Subject) -> str:
    """NaN, 1e9 and other ids in absent inputs leave outputs and gradients bit-identical."""
    call = Poisoned(subject)
    names = subject.adapter.modalities
    inputs = {name: path.get(subject.example.call) for name, path in subject.adapter.paths.items()}
    chosen = names.sampled(MOST_COMBINATIONS)
    try:
        assert_missing_invariant(call, names, inputs, combinations=chosen)
    except AssertionError as error:
        where = _first_leak(subject, call, inputs)
        raise Wrong(
            "the same outputs and gradients whatever an absent input holds",
            f"{str(error).partition('; absent values leak')[0]}{where}",
            "read an input only through the argument that `inputs` names, where the fill replaces it"
            if subject.adapter.fill is not None
            else "torch.where(available, ...) instead of a product, which keeps NaN, or a fill",
        ) from None
    finally:
        subject.state.restore()
    return "NaN, 1e9 or other ids in absent inputs change no bit of outputs and gradients"


class Poisoned(nn.Module):
    """The adapted network as a function of the inputs of the modalities."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.base, self.adapter, self._subject = subject.base, subject.adapter, [subject]

    def forward(self, inputs: Mapping[str, Nest], available: Bool[Tensor, "batch modality"]) -> Any:
        subject = self._subject[0]
        subject.state.restore()
        call = subject.example.call
        for name, path in self.adapter.paths.items():
            call = path.put(call, inputs[name])

        def once_more(place: Path, leaf: Any) -> Any:
            name, position = subject.aliases.get(place, (None, 0))
            return leaf if name is None else tensors_of(inputs[name])[position]

        bound = bound_arguments(self.base, call)
        bound.arguments.update(map_leaves(dict(bound.arguments), once_more, (), is_column))
        return subject.forward(available, (bound.args, bound.kwargs))


def _first_leak(subject: Subject, call: Poisoned, inputs: Mapping[str, Nest]) -> str:
    """Say at which layer NaN in absent inputs arrives first."""
    for column, name in enumerate(subject.adapter.modalities):
        without = subject.full.clone()
        without[:, column] = False
        spoiled = map_leaves(
            inputs[name],
            lambda _, leaf: (
                torch.full_like(leaf, torch.nan) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
            ),
        )

        both = ((values, without) for values in (inputs, {**inputs, name: spoiled}))
        one, other = (partial(_run_poisoned, call, subject, values, available) for values, available in both)
        found = first_apart(subject.base, one, other, _same_nests)
        if found is not None:
            return f"; {name!r} arrives first in the output of layer {found!r}"
    return ""


def _same_nests(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors_of(one), tensors_of(other)))
    return all(same(a, b) for a, b in pairs)


def _run_poisoned(
    call: Poisoned, subject: Subject, values: Mapping[str, Nest], available: Bool[Tensor, "batch modality"]
) -> None:
    with seeded():
        call(values, available)
    subject.state.restore()
