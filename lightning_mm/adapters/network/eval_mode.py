"""Run a network in eval mode and restore its state afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def quiet(network: nn.Module) -> Iterator[None]:
    """Run a network in eval mode, without gradients and nested tensors; restores its modes and the random state."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(), plain_tensors(network):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def plain_tensors(network: nn.Module) -> Iterator[None]:
    """Keep ``nn.TransformerEncoder`` from packing padded sequences into nested tensors, which hooks cannot read."""
    changed = refuse_nested_tensors(network)
    try:
        yield
    finally:
        for encoder in changed:
            encoder.use_nested_tensor = True


def refuse_nested_tensors(network: nn.Module) -> list[nn.TransformerEncoder]:
    """Switch nested tensors off in every encoder that has them on, and return these encoders."""
    encoders = (module for module in network.modules() if isinstance(module, nn.TransformerEncoder))
    changed = [encoder for encoder in encoders if getattr(encoder, "use_nested_tensor", False)]
    for encoder in changed:
        encoder.use_nested_tensor = False
    return changed


class FrozenState:
    """A frozen network (no gradients, eval mode, no nested tensors) with the state to restore.

    Args:
        network: Changed in place until :meth:`restore`.
        following: Names of modules that follow another mode, see :meth:`freeze`.
    """

    def __init__(self, network: nn.Module, following: Sequence[str] = ()) -> None:
        self.network = network
        self._following = [network.get_submodule(name) for name in following]
        self._modules = [(module, module.training) for module in network.modules()]
        self._required_grad = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        network.requires_grad_(False)
        network.eval()
        self._packing = refuse_nested_tensors(network)

    def freeze(self, training: bool = False) -> None:
        """Undo a ``train()`` call on the network, so that norm layers and dropout stay in eval mode.

        Args:
            training: The mode of the modules that follow it.
        """
        if any(module.training for module, _ in self._modules):
            self.network.eval()
        for module in self._following:
            module.training = training

    def restore(self) -> None:
        """Restore ``requires_grad`` and the training modes of the network."""
        for parameter, required in self._required_grad:
            parameter.requires_grad_(required)
        for module, training in self._modules:
            module.training = training
        for encoder in self._packing:
            encoder.use_nested_tensor = True
