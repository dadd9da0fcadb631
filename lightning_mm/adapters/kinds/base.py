"""The base classes of all adapter kinds: a kind is a plain description, a bank holds its parameters at one layer.

A new kind is one file: a :class:`Kind`, which selects layers, and a :class:`Bank`, which holds rows of parameters.

Shapes: K rows of the basis, C channels of the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.types import acts_as
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.errors import LightningMMError


class Bank(nn.Module):
    """The parameters of one layer for all combinations; a fresh bank changes nothing.

    Every parameter has the K rows of the basis on its first axis, unless :attr:`has_rows` is False. A bank is not
    called itself; its methods receive a :class:`~lightning_mm.adapters.call.LayerCall`, and ``call.mix(table)`` returns
    one row per sample.
    """

    changes_input: bool = False
    """Whether :meth:`enter` changes the arguments of the layer."""

    needs_input: bool = False
    """Whether :meth:`leave` reads the input of the layer; of several banks at one layer, these act first."""

    behind_encoder: bool = False
    """Whether the layer is an encoder, which may run on a part of the samples, and :meth:`leave` gets its output for
    all of them, once in each of the two steps of a call, see :mod:`lightning_mm.adapters.encoders_first`."""

    has_rows: bool = True
    """Whether parameters have rows of the basis; if not, all combinations share them, and none has two axes."""

    foldable: bool = True
    """Whether :meth:`fold` is possible; if not, it says why not."""

    @property
    def at_layer(self) -> bool:
        """Whether the bank, or a part of it, acts where the layer runs."""
        return not self.behind_encoder

    def enter(self, call: LayerCall) -> Call:
        """Return the changed arguments ``(args, kwargs)`` of the layer, before it runs."""
        return call.args, call.kwargs

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *changed"]:
        """Return the modulated output of the layer; may modify ``output`` in place if ``call.in_place`` is True."""
        return output

    def fold(self, call: LayerCall) -> None:
        """Fold one combination into the weights of ``call.module``, a copy of the layer; the route has one row.

        Raises:
            LightningMMError: If the layer cannot be folded.
        """
        raise NotImplementedError


class Kind:
    """A description of which layers are adapted and how; its attributes are named like its ``__init__`` arguments."""

    targets: tuple[type[nn.Module], ...]

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Select the layers of a network to adapt; default: all that act as layers of the types ``targets``.

        Returns:
            For each selected layer the details that :meth:`bank` needs, in plain types (``site.details``); and for each
            layer of the right type that cannot be adapted, the reason. An entry ``channel_axis`` gives the axis of
            the channels in the output of a module that is not a layer of torch, or one for each number of axes.
        """
        return {name: {} for name, module in network.named_modules() if acts_as(module, self.targets)}, {}

    def choose_encoders(
        self, network: nn.Module, modalities: Sequence[str], encoders: Mapping[str, str]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Select layers as :meth:`choose` does, for kinds that need to know the encoders; default: :meth:`choose`.

        Args:
            network: The base.
            modalities: Names in order.
            encoders: Modality to the name of its encoder, for the encoders that may run on a part of the samples.
        """
        return self.choose(network)

    def idle(self, sites: Sequence[Site]) -> str | None:
        """Name a part of this kind that got none of the chosen layers, which is an error; None if there is none.

        Raises:
            NotApplicableError: If the kind cannot work on so few layers.
        """
        return None

    def bank(self, site: Site, rows: int) -> Bank:
        """Create a fresh bank for one layer."""
        raise NotImplementedError


def parameters_at_once(banks: nn.Module, basis: Basis) -> int:
    """Count the parameters of banks in the rows of the combination that uses the most rows."""
    with_rows = shared = 0
    for module in banks.modules():
        own = sum(one.numel() for one in module.parameters(recurse=False))
        if getattr(module, "has_rows", True):
            with_rows += own
        else:
            shared += own
    return basis.most_rows() * with_rows // len(basis.names) + shared


def chosen_by_pattern(kind: Kind, network: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """Select the layers of a kind's types with names that match one of the patterns; None selects all.

    Raises:
        LightningMMError: If a pattern matches none of them.
    """
    every = {name: module for name, module in network.named_modules() if acts_as(module, kind.targets)}
    for pattern in layers or ():
        if not any(fnmatchcase(name, pattern) for name in every):
            types = ", ".join(sorted(t.__name__ for t in kind.targets))
            raise LightningMMError(
                f"{type(kind).__name__}(layers=[{pattern!r}]): the pattern matches no layer of "
                f"{type(network).__name__} of the types {types}; these have names like {list(every)[:5]}"
            )
    if layers is None:
        return every
    return {name: module for name, module in every.items() if any(fnmatchcase(name, p) for p in layers)}
