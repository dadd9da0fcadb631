"""Choose the layers to adapt and build an adapter for a network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.basis import Basis, OneHot
from lightning_mm.adapters.kinds.base import Kind
from lightning_mm.adapters.left_out import listed, never_adapted
from lightning_mm.adapters.network.encoders import find_encoders
from lightning_mm.adapters.network.eval_mode import quiet
from lightning_mm.adapters.network.example import Example, example_of
from lightning_mm.adapters.network.inputs import Call, locate_inputs
from lightning_mm.adapters.network.probe import probe
from lightning_mm.adapters.network.training import deep_supervision
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import FeatureFill, Fill
from lightning_mm.modalities import Modalities
from lightning_mm.tree import map_tensors


def build_adapter(
    network: nn.Module,
    modalities: Modalities | Iterable[str],
    kind: Kind,
    *,
    basis: Basis | None = None,
    fill: Fill | None,
    inputs: Mapping[str, str] | None = None,
    example: Call,
    targets: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    encoders: Mapping[str, str] | None = None,
    grouped: bool = False,
) -> Adapter:
    """Build an adapter for a network, without attaching it.

    Args:
        network: The base; it runs a few times on the example and is not changed.
        modalities: Names in order.
        kind: What is learned at each layer.
        basis: Default :class:`OneHot`.
        fill: Placeholder for absent inputs; with None inputs are not changed.
        inputs: Modality to its argument, see :func:`locate_inputs`.
        example: ``(args, kwargs)`` of a typical call.
        targets: Names or patterns (``"encoders.*"``) of layers to adapt; default: all layers of the kind's types.
        exclude: Names or patterns of layers to leave out, e.g. ``["head*"]``.
        encoders: Modality to the module that encodes it and nothing else, see ``adapt``.
        grouped: Whether the network runs once per combination in a batch, see ``adapt``.

    Raises:
        LightningMMError: If an input is not found, a pattern matches no layer, a layer named in ``targets`` cannot be
            adapted, or there is no layer to adapt.
    """
    modalities = modalities if isinstance(modalities, Modalities) else Modalities(modalities)
    if isinstance(fill, FeatureFill):
        raise LightningMMError(
            f"the fill {type(fill).__name__} replaces outputs of encoders, which an adapter may change; give the "
            "adapter a fill of inputs, such as Zeros or MeanInput"
        )
    _refuse_lazy(network)
    paths = locate_inputs(network, modalities, inputs, example)
    given = example_of(network, example, paths, fill is not None)
    if encoders and fill is None:
        raise LightningMMError(
            "`encoders` needs a fill: without one, samples that lack a modality still differ in that input; "
            "pass a fill, or leave out `encoders`"
        )
    with quiet(network):
        found_encoders = find_encoders(network, modalities, encoders if fill else {}, paths, given)
    every, refused = kind.choose_encoders(network, modalities, found_encoders)
    details, reasons, explicit, on_purpose = _choose(network, kind, every, refused, targets, exclude)
    channels = {name: about["channel_axis"] for name, about in details.items() if "channel_axis" in about}
    modules = {name: network.get_submodule(name) for name in details}
    found, unroutable = probe(network, modules, given, grouped, channels)
    sites = [replace(site, details=details[name]) for name, site in found.items()]
    reasons |= unroutable
    if sites or explicit & set(reasons):
        _report(reasons, explicit)
    if not sites:
        raise LightningMMError(
            f"no layer of {type(network).__name__} can be adapted by {type(kind).__name__}; "
            f"reasons: {reasons or 'no layer of its types'}"
        )
    idle = kind.idle(sites)
    if idle is not None:
        raise LightningMMError(
            f"{idle} adapts no layer of {type(network).__name__}: `targets`, `exclude` or the example leave it no "
            f"layer; remove it from {type(kind).__name__}, or name layers for it"
        )
    _warn_of_batch_statistics(network)
    # copies, since a basis is bound to its modalities and one object may be passed to several adapters
    kind, basis, fill = copy.deepcopy((kind, basis or OneHot(), fill))
    following = _modules_for_training(network, given)
    adapter = Adapter(
        kind, basis, modalities, fill, sites, paths, found_encoders, grouped, sorted(given.shared), following
    )
    adapter.left_out = {**reasons, **on_purpose}
    adapter.example = map_tensors(given.of(2).call, lambda leaf: leaf.detach().clone())
    return adapter


def _choose(
    network: nn.Module,
    kind: Kind,
    every: dict[str, dict[str, Any]],
    refused: dict[str, str],
    targets: Sequence[str] | None,
    exclude: Sequence[str],
) -> tuple[dict[str, dict[str, Any]], dict[str, str], set[str], dict[str, str]]:
    """Return details of the layers to adapt, the reasons to leave out others, and the names given literally.

    The last item holds the reasons for layers that are left out on purpose and without a warning.
    """
    all_names = dict(network.named_modules())
    for pattern in (*(targets or ()), *exclude):
        if not any(fnmatchcase(name, pattern) for name in all_names):
            raise LightningMMError(
                f"no layer of {type(network).__name__} matches {pattern!r}; "
                f"its layers have names like {[*every, *refused][:5]}"
            )
    names = [*every, *refused] if targets is None else [n for n in all_names if any(fnmatchcase(n, p) for p in targets)]
    explicit = set(targets or ()) & set(all_names)
    wrong = [name for name in explicit if name not in every and name not in refused]
    if wrong and isinstance(all_names[wrong[0]], kind.targets):
        raise LightningMMError(
            f"layer {wrong[0]!r} is in `targets`, but {type(kind).__name__} leaves it out; remove it from `targets`"
        )
    if wrong:
        types = ", ".join(sorted(t.__name__ for t in kind.targets))
        raise LightningMMError(
            f"layer {wrong[0]!r} is a {type(all_names[wrong[0]]).__name__}; {type(kind).__name__} adapts {types}"
        )
    idle = [p for p in targets or () if not any(fnmatchcase(name, p) for name in (*every, *refused))]
    if idle:
        raise LightningMMError(
            f"`targets`: {idle[0]!r} matches no layer of a type that {type(kind).__name__} adapts; remove it"
        )
    told, on_purpose = never_adapted(network, kind, names)
    if targets is None:
        refused = {**refused, **told}
        names += told
    else:
        on_purpose |= dict.fromkeys(told, "not in `targets`")
    excluded = [name for name in (*names, *on_purpose) if any(fnmatchcase(name, p) for p in exclude)]
    on_purpose |= dict.fromkeys(excluded, "in `exclude`")
    kept = [name for name in names if name not in excluded]
    reasons = {name: refused[name] for name in kept if name in refused}
    return {name: every[name] for name in kept if name in every}, reasons, explicit, on_purpose


def _report(reasons: Mapping[str, str], explicit: set[str]) -> None:
    named = [name for name in reasons if name in explicit]
    if named:
        raise LightningMMError(
            f"layer {named[0]!r} cannot be adapted: {reasons[named[0]]}. "
            "Remove it from `targets`, or adapt the module that contains it"
        )
    if reasons:
        warnings.warn(f"{len(reasons)} layers are left out of the adapter: {listed(reasons)}", stacklevel=4)


def _modules_for_training(network: nn.Module, example: Example) -> list[str]:
    """Return the modules of deep supervision; warns of a network whose outputs in training mode are lost."""
    names, reason = deep_supervision(network, example)
    if reason is not None:
        warnings.warn(
            f"{type(network).__name__} is frozen in eval mode, and a training step gets what it returns in eval mode: "
            f"{reason}. If your loss needs what it returns in training mode, adapt the part of it before that",
            stacklevel=4,
        )
    return names


def _refuse_lazy(network: nn.Module) -> None:
    for name, parameter in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(parameter):
            raise LightningMMError(
                f"the weight {name!r} of {type(network).__name__} has no shape yet, as its layer is lazy; run the "
                "network once before it is adapted"
            )


def _warn_of_batch_statistics(network: nn.Module) -> None:
    norms = nn.modules.batchnorm._BatchNorm
    found = [n for n, m in network.named_modules() if isinstance(m, norms) and m.running_mean is None]
    if found:
        warnings.warn(
            f"{', '.join(found[:3])} normalise by batch statistics even in eval mode "
            "(track_running_stats=False): samples of a mixed batch influence each other",
            stacklevel=4,
        )
