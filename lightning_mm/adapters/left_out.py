"""The layers with weights that an adapter leaves out, each with its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from lightning_mm.adapters.kinds.base import Kind
from lightning_mm.adapters.kinds.together import Together
from lightning_mm.adapters.layers.foreign import own_tensors
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.types import Adaptable, Normalisation, acts_as

OF_THE_NETWORK = "(the network itself)"
"""The name of a network among its modules."""
_PACKAGE = __name__.partition(".")[0]


def never_adapted(network: nn.Module, kind: Kind, known: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Find the modules with weights that a kind does not know.

    Args:
        network: The base.
        kind: What is learned at each layer.
        known: Names of the modules that the kind adapts, or leaves out with a reason of its own.

    Returns:
        Name to reason: modules that a user should know of, and modules that are left out on purpose (norms and
        embeddings of torch that the kind is not for, layers that it did not choose, parts of networks of this package).
    """
    told: dict[str, str] = {}
    on_purpose: dict[str, str] = {}
    ours: tuple[str, ...] = ()
    for name, module in network.named_modules():
        weights = _weights(module)
        if type(module).__module__.startswith(f"{_PACKAGE}."):
            ours = (*ours, f"{name}." if name else "")
        path = name.split(".")
        if name in known or not weights or "parametrizations" in path or path[-1] == "_packed_params":
            continue
        type_, parts = type(module).__name__, ", ".join(weights)
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):  # too large to be left out without a warning
            told[name] = "recurrent layers run all steps inside one call"
            continue
        if acts_as(module, (*Adaptable, nn.Embedding, nn.EmbeddingBag)):
            reason = f"{type(kind).__name__} is not for this {type_}"
        else:
            is_layer = not module._modules or "_packed_params" in module._modules
            what = "is no linear, convolution, norm or attention layer" if is_layer else "uses its own parameters"
            reason = f"{type_} {what}: {parts}"
        quiet = not _is_general(kind) or f"{name}.".startswith(ours) or _is_meant(module, kind)
        (on_purpose if quiet else told)[name or OF_THE_NETWORK] = reason
    return told, on_purpose


def adapted_and_left_out(sites: Sequence[Site], reasons: Mapping[str, str]) -> list[str]:
    """Name the adapted layers in one line, and those that are left out in another, if there are any."""
    adapted = f"adapted: {', '.join(site.name or OF_THE_NETWORK for site in sites)}"
    return [adapted, *([f"left out: {listed(reasons)}"] if reasons else [])]


def listed(reasons: Mapping[str, str]) -> str:
    """List names and reasons, names with the same reason together: ``"a, b (reason); c (other)"``."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(group)} ({reason})" for reason, group in names.items())


def _is_general(kind: Kind) -> bool:
    """Return whether a kind adapts all linear and convolution layers, so that one of another type may be missed."""
    if isinstance(kind, Together):
        return any(_is_general(one) for one in kind.kinds)
    return {nn.Linear, nn.Conv2d} <= set(kind.targets) and getattr(kind, "layers", None) is None


def _is_meant(module: nn.Module, kind: Kind) -> bool:
    """Return whether a kind leaves out a module by its choice, or by its nature if it is a norm or an embedding."""
    return acts_as(module, kind.targets) or isinstance(module, (*Normalisation, nn.Embedding, nn.EmbeddingBag))


def _weights(module: nn.Module) -> list[str]:
    """Return the names of the weights of a module itself; those of quantised layers are no parameters."""
    found = [name for name, parameter in module._parameters.items() if parameter is not None]
    buffers = [name for name, tensor in own_tensors(module).items() if name not in found and "weight" in name]
    packed = ["packed weights"] if hasattr(module, "_packed_params") else []
    return [*found, *buffers, *packed]
