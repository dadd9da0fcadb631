"""The small protocol of all adapter kinds: a kind is a plain description, a bank its parameters at one layer.

A user's own kind is one file: a :class:`Kind` with the layers it goes to, and a :class:`Bank` with its rows.

Shapes: K rows of the basis, C channels of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.errors import LightningMMError


class Mixed(NamedTuple):
    """The route of a call, and what it picks from the tables of one bank, where that was done for all banks at once."""

    route: Tensor
    values: Float[Tensor, "batch entry"]


class Bank(nn.Module):
    """The parameters of one layer for all combinations; a fresh bank changes nothing.

    Every parameter has the K rows of the basis on its first axis.
    """

    needs_input: bool = False
    """Whether ``forward`` takes two more arguments, the layer and the first argument of its call."""

    changes_input: bool = False
    """Whether :meth:`enter` changes what the layer is given."""

    def enter(
        self, given: Float[Tensor, " *input"], route: Shaped[Tensor, " batch *route"], basis: Basis, site: Site
    ) -> Float[Tensor, " *input"]:
        """Modulate the first argument of the layer's call."""
        raise NotImplementedError

    def enter_call(
        self, module: nn.Module, call: Call, route: Shaped[Tensor, " batch *route"], basis: Basis, site: Site
    ) -> Call:
        """The call of the layer, changed; by default its first argument by :meth:`enter`."""
        args, kwargs = call
        changed = self.enter(first_argument(site, args, kwargs), route, basis, site)
        return ((changed, *args[1:]), kwargs) if args else ((), {**kwargs, "input": changed})

    def forward(
        self, output: Float[Tensor, " *output"], route: Shaped[Tensor, " batch *route"], basis: Basis, site: Site
    ) -> Float[Tensor, " *output"]:
        """Modulate the output of the layer; ``route`` is what ``basis.route`` gave for this batch."""
        raise NotImplementedError

    def overwrite(
        self,
        output: Float[Tensor, " *output"],
        route: Shaped[Tensor, " batch *route"],
        basis: Basis,
        site: Site,
        *given: Any,
    ) -> Float[Tensor, " *output"]:
        """As :meth:`forward`, where ``output`` is nobody else's: its memory may be used.

        With gradients it is called only where :meth:`divisor` allows it and nobody changes the result later.
        """
        changed: Tensor = self(output, route, basis, site, *given)
        return changed

    def tables(self) -> tuple[Float[Tensor, "row _"], ...]:
        """Tables ``[K, ...]`` whose rows the basis may mix before the layers run, for all banks in one go.

        A bank that has some is given a :class:`Mixed` in the place of the route, with their mixtures side by side.
        """
        return ()

    def divisor(self) -> Float[Tensor, "row channel"] | None:
        """What :meth:`overwrite` divides by in the backward pass, less 1, ``[K, C]``; None if it is for inference."""
        return None

    def fold(self, module: nn.Module, route: Shaped[Tensor, " 1 *route"], basis: Basis) -> None:
        """Write the adaptation of one combination (``route`` of a single row) into ``module``, a copy of the layer.

        Raises:
            LightningMMError: If the layer cannot take it.
        """
        raise NotImplementedError


def first_argument(site: Site, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer was given.

    Raises:
        LightningMMError: If it was called without a positional argument or one called ``input``.
    """
    if args:
        return args[0]
    if "input" not in kwargs:
        raise LightningMMError(
            f"layer {site.name!r} was called without a first argument or `input`, which its adapter reads; "
            "leave it out with `exclude`"
        )
    return kwargs["input"]


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
