"""Measure how much missing modalities disturb each layer, and how much an adapter there would lower the loss.

Shapes: B samples, M modalities, T steps merged into the batch axis, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.probe import main_output
from lightning_mm.errors import LightningMMError


@dataclass(frozen=True)
class LayerSensitivity:
    """The measurements of one layer.

    Args:
        name: Name of the layer in the network.
        parameters: Number of parameters that one combination adds there (the combination that adds most).
        disturbance: Relative change of its output when modalities go missing; NaN if it could not be measured because
            no sample had more modalities observed than available.
        gain: Mean squared gradient of the loss with respect to the parameters of its bank, summed over them: one step
            of gradient descent with rate r lowers the loss by ``r * gain``.
    """

    name: str
    parameters: int
    disturbance: float
    gain: float


def sensitivity(
    adapter: Adapter,
    network: nn.Module,
    batches: Iterable[Sequence[Any]],
    loss: Callable[[Any, Tensor], Tensor],
) -> list[LayerSensitivity]:
    """Measure every adapted layer on a few batches; trains nothing and leaves no gradients.

    The disturbance of a layer is the mean of ``||h(available) - h(observed)|| / ||h(observed)||`` over incomplete
    samples, where each channel of the output h is first divided by its root mean square over the batch, so that
    channels with large values do not dominate.

    The gain is an empirical Fisher information: squared gradients with respect to the bank's parameters at the
    identity, averaged over batches and summed over parameters. Squared gradients of single samples, as in the FISH
    mask, would need one backward pass per sample; here the gradient is taken per batch and row of the bank, which is
    per batch and combination with the basis ``OneHot``, all in one pass. The noise of single samples averages out,
    which brings the gain closer to that of a training step.

    Args:
        adapter: A fresh adapter, attached to the network.
        network: Its base.
        batches: Tuples ``(batch, available)``, where ``available`` is ``Bool[B, M]``; or ``(batch, available,
            observed)`` if some modalities were not observed. The batch is passed to ``loss``.
        loss: Runs the network on a batch with a given availability, and returns the mean loss of the batch. It is
            called twice per batch: with ``available``, and, without gradients, with ``observed``.

    Returns:
        The layers in the order in which they first ran; layers that did not run come last.

    Raises:
        LightningMMError: If the adapter is grouped, all samples of the batches are complete, or a loss is not a finite
            scalar that depends on the adapter.

    Reference:
        Sung, Nair, Raffel, "Training Neural Networks with Fixed Sparse Masks", NeurIPS 2021.
    """
    if adapter.grouped:
        raise LightningMMError(
            "sensitivity compares outputs of layers sample by sample; build the adapter without grouped"
        )
    with adapter.every_row():  # layers run on the same samples in both calls
        return _measure(adapter, network, batches, loss)


def _measure(
    adapter: Adapter,
    network: nn.Module,
    batches: Iterable[Sequence[Any]],
    loss: Callable[[Any, Tensor], Tensor],
) -> list[LayerSensitivity]:
    banks = {site.name: list(adapter.bank(site).parameters()) for site in adapter.sites}
    gains = dict.fromkeys(banks, 0.0)
    disturbances = _Disturbances(adapter, network)
    number, lacking = 0, False
    for batch, available, *rest in batches:
        observed = rest[0] if rest else torch.ones_like(available)
        lost = (observed & ~available).any(1)
        lacking = lacking or not bool(available.all())
        with torch.enable_grad(), disturbances.noting(bool(lost.any())):
            value = loss(batch, available)
            _check_loss(value, number)
            flat = [parameter for bank in banks.values() for parameter in bank]
            grads = iter(torch.autograd.grad(value, flat, allow_unused=True))
        for name, bank in banks.items():
            gradients = [gradient for _ in bank if (gradient := next(grads)) is not None]
            gains[name] += sum(float(gradient.float().square().sum()) for gradient in gradients)
        number += 1
        if bool(lost.any()):
            with torch.no_grad(), disturbances.comparing(lost):
                loss(batch, observed)
    if not lacking:
        raise LightningMMError(
            f"no sample of {number} batches lacks a modality, so the effect of missing ones cannot be measured; "
            "pass batches of training data with a policy that drops some modalities"
        )
    order = sorted(banks, key=lambda name: disturbances.fired.get(name, len(banks)))
    costs = {site.name: adapter.parameters_per_combination(adapter.bank(site)) for site in adapter.sites}
    return [LayerSensitivity(n, costs[n], disturbances.mean(n), gains[n] / number) for n in order]


def sensitivity_table(layers: Sequence[LayerSensitivity], total: int, chosen: Collection[str] | None = None) -> str:
    """Format layers as a markdown table, one line per layer, with chosen layers marked.

    Args:
        layers: As returned by :func:`sensitivity`.
        total: Number of parameters of the network, for the shares.
        chosen: Names of the chosen layers; None leaves out the column.
    """
    head = ["layer", "parameters", "share of the network", "disturbance", "gain", "gain per parameter"]
    rows = [
        [
            one.name or "(the network itself)",
            f"{one.parameters:,}",
            f"{100 * one.parameters / max(total, 1):.3f} %",
            "-" if math.isnan(one.disturbance) else f"{one.disturbance:.3f}",
            f"{one.gain:.3g}",
            f"{one.gain / max(one.parameters, 1):.3g}",
        ]
        for one in layers
    ]
    align = ["---", *["---:"] * (len(head) - 1)]
    if chosen is not None:
        head, align = [*head, "chosen"], [*align, ":---:"]
        rows = [[*row, "x" if one.name in chosen else ""] for one, row in zip(layers, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, align, *rows)) + "\n"


class _Disturbances:
    """A comparison of layer outputs with ``available`` and with ``observed`` modalities."""

    def __init__(self, adapter: Adapter, network: nn.Module) -> None:
        self.adapter, self.modules = adapter, dict(network.named_modules())
        self.fired: dict[str, int] = {}
        self.kept: dict[str, list[Tensor]] = {}
        self.sums = {site.name: 0.0 for site in adapter.sites}
        self.counts = {site.name: 0 for site in adapter.sites}

    def mean(self, name: str) -> float:
        """Return the mean relative change of the output of a layer; NaN if nothing was compared."""
        return self.sums[name] / self.counts[name] if self.counts[name] else math.nan

    @contextmanager
    def noting(self, keep: bool) -> Iterator[None]:
        """Record the order in which layers run inside, and if ``keep``, their outputs."""
        self.kept = {}

        def note(site: Site, output: Tensor) -> None:
            self.fired.setdefault(site.name, len(self.fired))
            if keep:  # copies: an in-place activation would change them
                self.kept.setdefault(site.name, []).append(output.detach().clone())

        with self._listening(note):
            yield

    @contextmanager
    def comparing(self, lost: Bool[Tensor, " batch"]) -> Iterator[None]:
        """Compare the outputs of layers that run inside with the kept ones, for the samples in ``lost``."""

        def note(site: Site, output: Tensor) -> None:
            kept = self.kept.get(site.name)
            if not kept:
                return  # it only runs if no modality is missing
            before = kept.pop(0)
            if before.shape == output.shape:
                ratios = _ratios(site, before, output, lost.to(output.device))
                self.sums[site.name] += float(ratios.sum())
                self.counts[site.name] += len(ratios)

        with self._listening(note):
            yield
        self.kept = {}

    @contextmanager
    def _listening(self, note: Callable[[Site, Tensor], None]) -> Iterator[None]:
        def hook(site: Site) -> Callable[..., None]:
            def listen(module: nn.Module, args: Any, output: Any) -> None:
                if self.adapter.enabled:  # not in calls of the network as its own teacher
                    note(site, main_output(output))

            return listen

        handles = [self.modules[site.name].register_forward_hook(hook(site)) for site in self.adapter.sites]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _ratios(
    site: Site, without: Float[Tensor, " *output"], complete: Float[Tensor, " *output"], lost: Bool[Tensor, " batch"]
) -> Float[Tensor, " some"]:
    """Return the relative change of each sample in ``lost``; samples with a complete output of zero are left out."""
    layout, batch = site.layout(complete), len(lost)
    without, complete = (layout.channels_last(one.float(), batch).flatten(1, -2) for one in (without, complete))
    size = complete.square().mean((0, 1)).sqrt()  # of each channel
    weight = torch.where(size > 0, 1 / size, 0.0)  # a channel of zeros has no relative change
    change = ((without - complete) * weight)[lost].flatten(1).norm(dim=1)
    norm = (complete * weight)[lost].flatten(1).norm(dim=1)
    return change[norm > 0] / norm[norm > 0]


def _check_loss(value: Any, number: int) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise LightningMMError(f"the loss of batch {number} must be a scalar tensor, got {got}")
    if not bool(torch.isfinite(value)):
        raise LightningMMError(
            f"the loss of batch {number} is {value.item()}; expected a finite number: check the inputs and targets"
        )
    if not value.requires_grad:
        raise LightningMMError(
            f"the loss of batch {number} has no gradient, so it does not depend on the adapter; compute it from the "
            "outputs of the network that the adapter is attached to"
        )
