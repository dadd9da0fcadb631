"""The small protocol of all adapter kinds: a kind is a plain description, a bank its parameters at one layer.

A user's own kind is one file: a :class:`Kind` with the layers it goes to, and a :class:`Bank` with its rows.

Shapes: K rows of the basis, C channels of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.errors import LightningMMError


class Bank(nn.Module):
    """The parameters of one layer for all combinations; a fresh bank changes nothing.

    Every parameter has the K rows of the basis on its first axis. A bank is not called; its methods see one
    :class:`~lightning_mm.adapters.call.LayerCall`, whose ``mix(table)`` is one row for each sample.
    """

    changes_input: bool = False
    """Whether :meth:`enter` changes the arguments of the layer."""

    needs_input: bool = False
    """Whether :meth:`leave` reads the input of the layer; of several banks at one layer such ones act first."""

    def enter(self, call: LayerCall) -> Call:
        """The changed arguments ``(args, kwargs)`` of the layer, before it runs."""
        return call.args, call.kwargs

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *changed"]:
        """The modulated output of the layer; ``output`` may be overwritten where ``call.in_place`` says so."""
        return output

    def fold(self, call: LayerCall) -> None:
        """Write the adaptation of one combination into ``call.module``, a copy of the layer; the route has one row.

        Raises:
            LightningMMError: If the layer cannot take it.
        """
        raise NotImplementedError


class Kind:
    """Which layers are adapted, and how; its attributes are its settings, named like its ``__init__`` arguments."""

    targets: tuple[type[nn.Module], ...]

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """The layers of a network that this kind is for; default: all of the types ``targets``.

        Returns:
            For each of them what :meth:`bank` has to know, in plain types (``site.details``); and for those of its
            types that it cannot adapt the reason why not. An entry ``channel_axis`` says where the channels lie in the
            output of a module that is no layer of torch.
        """
        return {name: {} for name, module in network.named_modules() if isinstance(module, self.targets)}, {}

    def idle(self, sites: Sequence[Site]) -> str | None:
        """What of this kind has none of the layers that were chosen in the end; such a setting is a mistake."""
        return None

    def bank(self, site: Site, rows: int) -> Bank:
        """A fresh bank for one layer."""
        raise NotImplementedError


def chosen_by_pattern(kind: Kind, network: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """The layers of the types of a kind whose names fit one of the patterns; None takes all.

    Raises:
        LightningMMError: If a pattern fits none of them.
    """
    every = {name: module for name, module in network.named_modules() if isinstance(module, kind.targets)}
    for pattern in layers or ():
        if not any(fnmatchcase(name, pattern) for name in every):
            types = ", ".join(sorted(t.__name__ for t in kind.targets))
            raise LightningMMError(
                f"{type(kind).__name__}(layers=[{pattern!r}]): no layer of {type(network).__name__} that is one of "
                f"{types} is called that; they are named like {list(every)[:5]}"
            )
    if layers is None:
        return every
    return {name: module for name, module in every.items() if any(fnmatchcase(name, p) for p in layers)}
