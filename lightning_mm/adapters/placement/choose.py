"""Choose the layers that get an adapter, under a budget of parameters."""

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
from lightning_mm.errors import LightningMMError

Strategy = Literal["gain", "disturbance", "random", "last", "all"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


def budget_parameters(budget: str | float | int, total: int) -> int:
    """A budget as a number of parameters per combination.

    Args:
        budget: Percent of the network (``"0.25 %"``), a share of it (a float up to 1) or a count (an int).
        total: Parameters of the network.

    Raises:
        LightningMMError: If it is none of these.

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
    """Choose layers, best first, each that still fits the budget; one that is too large is passed over.

    Args:
        layers: As :func:`~lightning_mm.adapters.placement.sensitivity.sensitivity` gives them, in forward order.
        budget: Parameters per combination, see :func:`budget_parameters`; None, for the strategy ``all`` only, is no
            bound.
        total: Parameters of the network.
        strategy: What is best: most ``gain`` per parameter; most ``disturbance``; ``random`` by the seed; ``last`` in
            forward order; or ``all`` layers, which must fit.
        seed: Of ``random``.

    Returns:
        Names in forward order.

    Raises:
        LightningMMError: If a setting is wrong, or the budget takes no layer (or not ``all``); the message says what
            would do.

    Example:
        >>> layers = [LayerSensitivity("a", 8, 0.5, 1.0), LayerSensitivity("b", 4, 0.1, 3.0)]
        >>> place(layers, 8, 1000), place(layers, 8, 1000, "disturbance"), place(layers, None, 1000, "all")
        (['b'], ['a'], ['a', 'b'])
    """
    if strategy not in STRATEGIES:
        raise LightningMMError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if not layers:
        raise LightningMMError("there is no layer to place an adapter on")
    if budget is None and strategy != "all":
        raise LightningMMError(
            f"strategy {strategy!r} needs a budget, e.g. '0.25 %' of the network; only 'all' has none"
        )
    every = sum(one.parameters for one in layers)
    bound = every if budget is None else budget_parameters(budget, total)
    if strategy == "all" and bound < every:
        raise LightningMMError(
            f"a budget of {_shown(bound, total)} does not take all {len(layers)} layers, which need "
            f"{_shown(every, total)}; take another strategy, or none of the budget"
        )
    left, chosen = bound, set()
    for one in _ranked(layers, strategy, seed):
        if one.parameters <= left:
            chosen.add(one.name)
            left -= one.parameters
    if not chosen:
        least = min(layers, key=lambda one: one.parameters)
        raise LightningMMError(
            f"a budget of {_shown(bound, total)} takes no layer; the smallest that takes one is "
            f"{_shown(least.parameters, total)}, for layer {least.name!r}"
        )
    return [one.name for one in layers if one.name in chosen]


def keep_layers(adapter: Adapter, network: nn.Module, names: Collection[str]) -> None:
    """Keep an attached adapter's banks at some layers, and none at the others.

    Banks that stay are the same objects; a layer of a former choice that comes back gets a fresh one. Call it before an
    optimizer is made.

    Raises:
        LightningMMError: If there is no name, or one is no layer that the adapter was built for.
    """
    candidates = adapter.candidates or adapter.sites
    strangers = sorted(set(names) - {site.name for site in candidates})
    if strangers or not names:
        raise LightningMMError(
            f"expected names out of the {len(candidates)} layers that this adapter was built for, "
            f"got {strangers or 'none'}; they are named like {[site.name for site in candidates][:5]}"
        )
    adapter.candidates = candidates
    kept = tuple(site for site in candidates if site.name in names)
    if kept == adapter.sites:
        return
    adapter.detach()
    banks, rows = adapter.banks, len(adapter.basis.names)
    adapter.sites, adapter.banks = kept, nn.ModuleDict()
    for site in kept:  # in the order of the sites, as in an adapter that was built for these alone
        key = bank_key(site.name)
        adapter.banks[key] = banks[key] if key in banks else adapter.kind.bank(site, rows)
    adapter.attach(network)


def _ranked(layers: Sequence[LayerSensitivity], strategy: str, seed: int) -> list[LayerSensitivity]:
    """Best first; equals stay in forward order."""
    if strategy == "random":
        return random.Random(seed).sample(list(layers), len(layers))
    if strategy == "last":
        return list(reversed(layers))
    if strategy == "all":
        return list(layers)
    if strategy == "disturbance" and all(math.isnan(one.disturbance) for one in layers):
        raise LightningMMError(
            "strategy 'disturbance': no layer's output could be compared with that of complete data, as no sample had "
            "observed more than it was shown with; mark in the batches what was observed, or take 'gain'"
        )
    by: dict[str, Callable[[LayerSensitivity], float]] = {
        "gain": lambda one: one.gain / max(one.parameters, 1),
        "disturbance": lambda one: -1.0 if math.isnan(one.disturbance) else one.disturbance,
    }
    return sorted(layers, key=by[strategy], reverse=True)


def _shown(parameters: int, total: int) -> str:
    return f"{parameters:,} parameters per combination ({100 * parameters / max(total, 1):.3g} % of the network)"
