"""Train some parameters of a network and keep all others as they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_mm.callbacks.lookup import network_of
from lightning_mm.errors import LightningMMError


class TrainOnly(Callback):
    """Freezes every parameter of a module except those of ``pl_module.<network>`` with a name that matches a pattern.

    ``TrainOnly(["head*"])`` with the task's ``base_ckpt`` trains the head of a trained network. Frozen means: no
    gradient, and norm layers and dropout in eval mode, so that running statistics do not change; a part of the network
    is in train mode if all of its parameters are trained. Checkpoints hold the whole network as usual.

    Args:
        patterns: Names of parameters of the network or patterns for them: ``head*``, ``*.norm.weight``.
        network: The attribute that holds the network, dotted if nested.

    Raises:
        LightningMMError: At the start of a fit, if a pattern matches no parameter or the network is not found.
    """

    def __init__(self, patterns: list[str], network: str = "model") -> None:
        if isinstance(patterns, str) or not patterns:
            raise LightningMMError(f"patterns must be a non-empty list such as ['head*'], got {patterns!r}")
        self.patterns, self.network = list(patterns), network
        self._frozen: list[nn.Module] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        pl_module.configure_model()  # it may build the network; idempotent, as Lightning calls it again
        network = network_of(pl_module, self.network)
        # configure_optimizers runs after all setup hooks, so it sees what is trained
        names = [name for name, _ in network.named_parameters()]
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise LightningMMError(
                    f"no parameter of {type(network).__name__} is called {pattern!r}; {_hint(pattern, names)}"
                )
        pl_module.requires_grad_(False)
        for name, parameter in network.named_parameters():
            if any(fnmatchcase(name, pattern) for pattern in self.patterns):
                parameter.requires_grad_(True)
        self._frozen = list(_frozen_parts(pl_module, trained=False))
        # frozen parts are in eval mode on purpose
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")

    def on_train_batch_start(self, *_: object) -> None:
        # in every batch: Lightning and modules set modes at several times
        for part in self._frozen:
            part.training = False


def _frozen_parts(module: nn.Module, trained: bool) -> Iterator[nn.Module]:
    """Iterate over the modules inside with a frozen parameter; those without parameters count like their parent."""
    for child in module.children():
        parameters = list(child.parameters())
        as_child = all(parameter.requires_grad for parameter in parameters) if parameters else trained
        if not as_child:
            yield child
        yield from _frozen_parts(child, as_child)


def _hint(pattern: str, names: list[str]) -> str:
    """Suggest close names of parameters and of the parts that hold them."""
    wanted = pattern.strip("*.?")
    parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    close = get_close_matches(wanted, sorted(parts), n=5, cutoff=0.5)
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"{pattern!r} is a part of it: write '{pattern}.*' for all of its parameters"
    if close:
        return f"close names: {close}; the pattern {close[0] + '*'!r} matches all that start with it"
    return f"its parts are {sorted({name.split('.')[0] for name in names})}"
