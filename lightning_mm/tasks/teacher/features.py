"""Features of layers: the layers are chosen by name, hooks keep their outputs for one forward, and they are compared.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.adapters.encoders_first import will_run_again
from lightning_mm.errors import LightningMMError

Features = dict[str, list[Tensor]]
"""Layer name to its outputs, one for each time that it ran."""


class FeatureTap:
    """Forward hook that keeps the output of a layer, of a tuple the first entry; an object, so that it pickles."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.features: list[Tensor] = []

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if will_run_again():
            return
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor) or not first.is_floating_point():
            came = first.dtype if isinstance(first, Tensor) else type(first).__name__
            raise LightningMMError(
                f"distillation.layers: layer {self.name!r} ({type(module).__name__}) returns {came}; expected a tensor "
                "of floats, or a tuple that starts with one; choose a layer inside or after it"
            )
        # A copy: the next layer may work in place (a ReLU behind a norm).
        self.features.append(first.clone())


@contextmanager
def tapped(network: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, FeatureTap]]:
    """Keep the features of some layers in forwards inside this context.

    The hooks are registered at its start and removed at its end. So they run after the hooks of an adapter, whenever it
    was attached, and see the modulated outputs.
    """
    taps = {name: FeatureTap(name) for name in names}
    handles = [network.get_submodule(name).register_forward_hook(tap) for name, tap in taps.items()]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def features_of(taps: Mapping[str, FeatureTap]) -> Features:
    """The features that the taps have kept.

    Raises:
        LightningMMError: If a layer did not run; all such layers are named.
    """
    idle = [name for name, tap in taps.items() if not tap.features]
    if idle:
        raise LightningMMError(
            f"distillation.layers: {', '.join(map(repr, idle))} did not run as modules in the forward; their owner may "
            "use their weights without calling them, or the network is compiled; choose a layer around them"
        )
    return {name: tap.features for name, tap in taps.items()}


def choose_layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the layers that fit any of the names or patterns, in the order of the network.

    Containers that are never called themselves (``nn.ModuleDict``, ``nn.ModuleList``) are left out.

    Args:
        network: Any network; of a compiled one the layers of the original.
        patterns: Names such as ``encoders.rgb`` or patterns such as ``decoder.*``, which fits all layers inside.

    Raises:
        LightningMMError: If a name or pattern fits no layer.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    callable_ones = [name for name, module in modules.items() if type(module).forward is not nn.Module.forward]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in callable_ones):
            close = get_close_matches(pattern.strip("*.?"), callable_ones, n=5, cutoff=0.5)
            hint = f"close names: {close}" if close else f"its layers are named like {callable_ones[:5]}"
            raise LightningMMError(
                f"distillation.layers: no layer of {type(network).__name__} that runs is called {pattern!r}; {hint}"
            )
    return [name for name in callable_ones if any(fnmatchcase(name, pattern) for pattern in patterns)]


def normalised_error(student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
    """Mean squared error divided by the mean square of the teacher, so that layers of any scale count alike.

    The divisor is one if the teacher is zero everywhere. The teacher gets no gradient.
    """
    known = teacher.detach().float()
    power = known.square().mean()
    return F.mse_loss(student.float(), known) / torch.where(power > 0, power, 1.0)


def feature_distance(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """Mean over layers of the normalised error of the student's features; a layer that ran several times counts once.

    Student and teacher are one network, so the features have one shape and need no regressor between them.

    Args:
        student: Features of the adapted forward.
        teacher: Features of the base, of the same layers; they get no gradient.

    Raises:
        LightningMMError: If a layer ran another number of times or with another shape, or features of the student need
            no gradient where one is computed.

    Example:
        >>> student = torch.zeros(2, 3, requires_grad=True)
        >>> feature_distance({"head": [student]}, {"head": [torch.full((2, 3), 10.0)]}).item()
        1.0

    Reference:
        Romero et al., FitNets, ICLR 2015, arXiv 1412.6550, section 2.2 (hints).
    """
    if torch.is_grad_enabled():
        fixed = [name for name in teacher if not any(feature.requires_grad for feature in student[name])]
        if fixed:
            raise LightningMMError(
                f"distillation.layers: {', '.join(map(repr, fixed))} come before everything that is trained, so "
                "nothing can bring their features nearer; leave them out, or adapt layers before them"
            )
    terms = []
    for name, known in teacher.items():
        shapes = [[tuple(feature.shape) for feature in features] for features in (student[name], known)]
        if shapes[0] != shapes[1]:
            raise LightningMMError(
                f"distillation.layers: layer {name!r} returns {shapes[0]} for the available modalities and {shapes[1]} "
                "for all observed ones; choose a layer that runs alike whatever is available"
            )
        terms.append(torch.stack([normalised_error(*pair) for pair in zip(student[name], known)]).mean())
    return torch.stack(terms).mean()
