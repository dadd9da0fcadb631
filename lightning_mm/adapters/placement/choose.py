"""Choose the layers to adapt, within a budget of parameters."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from typing import Literal, get_args

from torch import nn

from lightning_mm.adapters.adapter import Adapter, bank_key
from lightning_mm.adapters.placement.sensitivity import LayerSensitivity
from lightning_mm.errors import LightningMMError, check_choice

Strategy = Literal["gain", "disturbance", "random", "last", "all"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


def budget_parameters(budget: str | float | int, total: int) -> int:
    """Convert a budget to a number of parameters per combination.

    Args:
        budget: Percent of the network (``"0.25 %"``), a share of it (a float up to 1) or a count (an int).
        total: Number of parameters of the network.

    Raises:
        LightningMMError: If the budget has another form or is not positive.

    Example:
        >>> budget_parameters("0.25 %", 80_000), budget_parameters(0.0025, 80_000), budget_parameters(200, 80_000)
        (200, 200, 200)
    """
    share: Fraction | None = None
    if isinstance(budget, str):
        percent = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*", budget)
        share = Fraction(percent[1]) / 100 if percent else None
    elif isinstance(budget, int) and not isinstance(budget, bool):
        if budget > 0:
            return budget
    elif isinstance(budget, float) and math.isfinite(budget):
        share = Fraction(repr(budget))
    if share is None or not 0 < share <= 1:
        raise LightningMMError(
            "budget: expected percent of the network's parameters such as '0.25 %', a share of them as a float above 0 "
            f"and up to 1, or a count as a whole number above 0, got {budget!r}"
        )
    return math.floor(share * total)


def place(
    layers: Sequence[LayerSensitivity],
    budget: str | float | int | None,
    total: int,
    strategy: Strategy = "gain",
    seed: int = 0,
) -> list[str]:
    """Choose layers, best first, that fit the remaining budget; layers that are too large are skipped.

    Args:
        layers: As returned by :func:`~lightning_mm.adapters.placement.sensitivity.sensitivity`, in forward order.
        budget: Parameters per combination, see :func:`budget_parameters`; None means no limit and is allowed for the
            strategy ``all`` only.
        total: Number of parameters of the network.
        strategy: The order of layers: highest ``gain`` per parameter first; highest ``disturbance`` first; ``random``;
            ``last`` layers first; or ``all`` layers, which must fit.
        seed: Seed of the strategy ``random``.

    Returns:
        Names of the chosen layers, in forward order.

    Raises:
        LightningMMError: If a setting is invalid, or the budget is too small for any layer (or for ``all``); the
            message names a sufficient budget.

    Example:
        >>> layers = [LayerSensitivity("a", 8, 0.5, 1.0), LayerSensitivity("b", 4, 0.1, 3.0)]
        >>> place(layers, 8, 1000), place(layers, 8, 1000, "disturbance"), place(layers, None, 1000, "all")
        (['b'], ['a'], ['a', 'b'])
    """
    check_choice("strategy", strategy, STRATEGIES)
    if not layers:
        raise LightningMMError("there is no layer to place an adapter on; expected at least one in `layers`")
    if budget is None and strategy != "all":
        raise LightningMMError(
            f"strategy {strategy!r} needs a budget, e.g. '0.25 %' of the network; only 'all' works without one"
        )
    every = sum(one.parameters for one in layers)
    bound = every if budget is None else budget_parameters(budget, total)
    if strategy == "all" and bound < every:
        raise LightningMMError(
            f"a budget of {_shown(bound, total)} is too small for all {len(layers)} layers, which need "
            f"{_shown(every, total)}; choose another strategy, or set no budget"
        )
    left, chosen = bound, set()
    for one in _ranked(layers, strategy, seed):
        if one.parameters <= left:
            chosen.add(one.name)
            left -= one.parameters
    if not chosen:
        least = min(layers, key=lambda one: one.parameters)
        raise LightningMMError(
            f"a budget of {_shown(bound, total)} is too small for any layer; the smallest sufficient budget is "
            f"{_shown(least.parameters, total)}, for layer {least.name!r}"
        )
    return [one.name for one in layers if one.name in chosen]


def keep_layers(adapter: Adapter, network: nn.Module, names: Collection[str]) -> None:
    """Keep the banks of an attached adapter at some layers and remove all others.

    Banks that are kept are the same objects; a layer that was removed by an earlier call and is named again gets a
    fresh bank. Call this before creating an optimizer.

    Args:
        adapter: The adapter, attached to the network.
        network: Its base.
        names: Names of the layers to keep.

    Raises:
        LightningMMError: If there are no names, or the adapter was not built for one of them.
    """
    candidates = adapter.candidates or adapter.sites
    unknown = sorted(set(names) - {site.name for site in candidates})
    if unknown or not names:
        raise LightningMMError(
            f"expected names of some of the {len(candidates)} layers that this adapter was built for, "
            f"got {unknown or 'none'}; these have names like {[site.name for site in candidates][:5]}"
        )
    adapter.candidates = candidates
    kept = tuple(site for site in candidates if site.name in names)
    if kept == adapter.sites:
        return
    adapter.detach()
    banks, rows = adapter.banks, len(adapter.basis.names)
    adapter.sites, adapter.banks = kept, nn.ModuleDict()
    for site in kept:  # in the order of the sites, as in an adapter that was built for these only
        key = bank_key(site.name)
        adapter.banks[key] = banks[key] if key in banks else adapter.kind.bank(site, rows)
    adapter.attach(network)


def _ranked(layers: Sequence[LayerSensitivity], strategy: str, seed: int) -> list[LayerSensitivity]:
    """Sort layers by the strategy, best first; ties stay in forward order."""
    if strategy == "random":
        return random.Random(seed).sample(list(layers), len(layers))
    if strategy == "last":
        return list(reversed(layers))
    if strategy == "all":
        return list(layers)
    if strategy == "disturbance" and all(math.isnan(one.disturbance) for one in layers):
        raise LightningMMError(
            "strategy 'disturbance': no layer's output could be compared with that of complete data, since no sample "
            "had more modalities observed than available; pass `observed` in the batches, or choose 'gain'"
        )
    by: dict[str, Callable[[LayerSensitivity], float]] = {
        "gain": lambda one: one.gain / max(one.parameters, 1),
        "disturbance": lambda one: -1.0 if math.isnan(one.disturbance) else one.disturbance,
    }
    return sorted(layers, key=by[strategy], reverse=True)


def _shown(parameters: int, total: int) -> str:
    return f"{parameters:,} parameters per combination ({100 * parameters / max(total, 1):.3g} % of the network)"
