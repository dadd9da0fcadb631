"""(IA)^3: scales of the keys and values of attention and of the inner activations of feed-forward blocks.

Reference: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
NeurIPS 2022, section 3.3.

Shapes: B samples, K rows of the basis, C channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Bank, Kind
from lightning_mm.adapters.kinds.ssf import SSFBank
from lightning_mm.adapters.layers.fold import fold_input_scale
from lightning_mm.adapters.layers.foreign import Role, role_of
from lightning_mm.adapters.layers.half import HALF, modulated_half
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.types import acts_as, known_type
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.tracing import full_precision
from lightning_mm.errors import LightningMMError

OUTPUTS = ("*key", "*value", "*k_proj", "*v_proj", "*.k", "*.v", "*k_lin", "*v_lin", "*to_k", "*to_v")
"""Names of the projections to keys and values in common networks."""

INPUTS = ("*linear2", "*fc2", "*down_proj", "*output.dense", "*mlp.3", "*.wo", "*lin2")
"""Names of the second layers of feed-forward blocks in common networks."""


class InputScaleBank(Bank):
    """``K`` rows of a scale of the input of a layer; ``scale`` holds the difference from 1."""

    changes_input = True

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(rows, channels))

    def enter(self, call: LayerCall) -> Call:
        given = call.input
        with full_precision(given.device.type):
            if given.dtype in HALF:
                exact = call.site.layout(given).place(1 + call.mix(self.scale), given)
                return call.with_input(modulated_half(given, exact, None))
            scale = call.site.layout(given).place((1 + call.mix(self.scale)).to(given.dtype), given)
            return call.with_input(given * scale)

    def fold(self, call: LayerCall) -> None:
        fold_input_scale(call.module, 1 + call.mix(self.scale)[0])


class IA3(Kind):
    """Scales of the outputs of some linear layers and of the inputs of others; identity at the start.

    Args:
        outputs: Names or patterns of layers to scale the outputs of: projections to keys and values. Default: their
            names in common networks (:data:`OUTPUTS`).
        inputs: Names or patterns of layers to scale the inputs of: the second layers of feed-forward blocks. Default:
            :data:`INPUTS`. They take precedence for a layer that matches both.

    Raises:
        LightningMMError: Later, if one of these patterns matches no linear layer of the network, or no default pattern
            does.
    """

    targets = (nn.Linear,)

    def __init__(self, outputs: list[str] | None = None, inputs: list[str] | None = None) -> None:
        self.outputs, self.inputs = outputs, inputs

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        linear = {name: module for name, module in network.named_modules() if acts_as(module, self.targets)}
        for setting, patterns in (("outputs", self.outputs), ("inputs", self.inputs)):
            for pattern in patterns or ():
                if not any(fnmatchcase(name, pattern) for name in linear):
                    raise LightningMMError(
                        f"IA3({setting}=[{pattern!r}]): the pattern matches no linear layer of "
                        f"{type(network).__name__}; these have names like {list(linear)[:5]}"
                    )
        details: dict[str, dict[str, Any]] = {}
        reasons: dict[str, str] = {}
        for name, module in linear.items():
            scales_input = _matches(name, INPUTS if self.inputs is None else self.inputs)
            if self.inputs is None and name.endswith("attention.output.dense"):
                scales_input = False  # part of attention, not of a feed-forward block
            if not scales_input and not _matches(name, OUTPUTS if self.outputs is None else self.outputs):
                continue
            role = role_of(module)
            if scales_input and role is None and known_type(module) is None:
                reasons[name] = f"{type(module).__name__} overrides forward, so its use of the input is unknown"
                continue
            details[name] = {"inputs": _inputs(module, role) if scales_input else 0}
        if not details and not reasons:
            raise LightningMMError(
                f"IA3 finds no projection to keys or values and no feed-forward block in {type(network).__name__}; "
                f"name its layers in `outputs` and `inputs`, e.g. from {list(linear)[:5]}"
            )
        for setting, group, scaled in (("outputs", self.outputs, False), ("inputs", self.inputs, True)):
            if group is None and not any(bool(about["inputs"]) == scaled for about in details.values()):
                what = "second layer of a feed-forward block" if scaled else "projection to keys or values"
                warnings.warn(
                    f"IA3 finds no {what} in {type(network).__name__} (fused projections and nn.MultiheadAttention "
                    f"have no separate ones) and scales only the other layers; name such layers in `{setting}`",
                    stacklevel=5,
                )
        return details, reasons

    def bank(self, site: Site, rows: int) -> Bank:
        width = site.details["inputs"]
        return InputScaleBank(rows, width) if width else SSFBank(rows, site.channels, ("scale",))


def _inputs(layer: nn.Module, role: Role | None) -> int:
    """Count the input channels of a linear layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0 if role == "transposed" else 1]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
