"""Keep the outputs of frozen encoders while an adapter behind them is trained.

An encoder that holds no adapter returns the same for a sample in every epoch. What it returned is kept by the content
of its input, so nothing has to be known of the data set, its splits, masks and workers: a sample that is augmented is
another input, and all samples without the modality have the input of the fill.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from torch import nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.kept.files import bytes_in
from lightning_mm.adapters.kept.forward import LEAVE_OUT, KeptForward
from lightning_mm.adapters.kept.rows import KeptRows, Space, folder_of
from lightning_mm.adapters.kept.settings import MEMORY, KeepOutputs
from lightning_mm.errors import LightningMMError

GIB = 2**30
ENOUGH = 20
"""Samples that show whether any of them comes again."""
PATIENCE = 3
"""Epochs after which that is expected, if modalities are dropped at random."""


class KeptEncoders:
    """Keeps the outputs of the encoders without adapters of a network, until :meth:`close`; also a context.

    Args:
        adapter: Attached to the network.
        network: The base.
        settings: Where and how much.
        samples: Number of samples of all epochs, to say what would be needed if they do not fit.

    Raises:
        LightningMMError: If no encoder is frozen, known and plain enough; the message names the way out.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_mm.adapters import SSF, KeepOutputs, KeptEncoders, adapt
        >>> class Sum(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoders = nn.ModuleDict({"rgb": nn.Linear(3, 4), "depth": nn.Linear(1, 4)})
        ...         self.head = nn.Linear(4, 2)
        ...     def forward(self, rgb, depth):
        ...         return self.head(self.encoders["rgb"](rgb) + self.encoders["depth"](depth))
        >>> batch = {"rgb": torch.randn(2, 3), "depth": torch.randn(2, 1)}
        >>> adapted = adapt(Sum(), ["rgb", "depth"], SSF(), example=((), batch), exclude=["encoders*"])
        >>> with KeptEncoders(adapted.adapter, adapted.base, KeepOutputs(gib=0.5)) as kept:
        ...     for epoch in range(3):  # the encoders run in the first and second
        ...         outputs = adapted(**batch, available=torch.tensor([[True, False], [True, True]]))
        ...         notes = kept.end_epoch()
        >>> kept.samples_kept
        4
    """

    def __init__(self, adapter: Adapter, network: nn.Module, settings: KeepOutputs, samples: int | None = None) -> None:
        self.settings, self.samples, self.epochs, self.samples_kept = settings, samples, 0, 0
        self._told_full = False
        chosen, self.left_out = _frozen(adapter, network)
        _refuse(adapter, network, chosen, self.left_out)
        where = None if settings.where == MEMORY else Path(settings.where)
        self.space = Space(settings.gib * GIB, 0.0 if where is None else bytes_in(where))
        rows = {name: KeptRows(self.space, where and folder_of(where, name, one)) for name, one in chosen.items()}
        self.forwards = [KeptForward(one, name, adapter.current, rows[name]) for name, one in chosen.items()]

    def summary(self) -> str:
        """Describe in a line what is kept, and which encoders run in every step."""
        where = "memory" if self.settings.where == MEMORY else self.settings.where
        line = (
            f"outputs of {', '.join(one.name for one in self.forwards)} in {where}, at most {self.settings.gib:g} GiB"
        )
        rest = [f"{name} runs in every step, as {layer} is adapted" for name, layer in self.left_out.items()]
        return "; ".join([f"keep_encoder_outputs: {line}", *rest])

    def end_epoch(self) -> list[str]:
        """Write and read files, if outputs are kept in a folder.

        Returns:
            What the user should know: outputs that do not fit, and encoders that never get the same input twice.
        """
        self.epochs += 1
        notes = []
        for one in self.forwards:
            one.rows.flush()
            vain = min(len(one.asked), len(one.rows.places)) > ENOUGH and len(one.found) <= 1  # one may be the fill
            if vain and self.epochs >= PATIENCE:
                one.off = True
                one.rows.clear()
                notes.append(
                    f"keep_encoder_outputs: encoder {one.name!r} got no input twice in {self.epochs} epochs, so its "
                    f"outputs are not kept any more: training data are augmented or drawn anew; {LEAVE_OUT}"
                )
            one.asked.clear()
        self.samples_kept = sum(len(one.rows.places) for one in self.forwards)
        if self.space.full and not self._told_full:
            self._told_full = True
            notes.append(self._full())
        return notes

    def close(self) -> None:
        """Restore the encoders; what was kept after the last :meth:`end_epoch` is in no file."""
        for one in reversed(self.forwards):
            one.remove()
        self.forwards = []

    def _full(self) -> str:
        note = f"keep_encoder_outputs: {self.settings.gib:g} GiB are full with {self.samples_kept:,} outputs"
        if self.samples is not None:
            needed = self.samples * sum(one.rows.bytes_per_sample for one in self.forwards) / GIB
            note += f", and about {needed:.2g} GiB would hold those of all {self.samples:,} samples"
        return f"{note}; the others are encoded in every epoch: raise keep_encoder_outputs.gib"

    def __enter__(self) -> KeptEncoders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _frozen(adapter: Adapter, network: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return the encoders without adapted layers, and for each other one the name of the first adapted layer."""
    layers = [site.name for site in adapter.sites if adapter.bank(site).at_layer]
    inside = {
        name: next((layer for layer in layers if layer == name or layer.startswith(f"{name}.")), None)
        for name in adapter.encoders.values()
    }
    chosen = {name: network.get_submodule(name) for name, layer in inside.items() if layer is None}
    return chosen, {name: layer for name, layer in inside.items() if layer is not None}


def _refuse(adapter: Adapter, network: nn.Module, chosen: dict[str, nn.Module], adapted: dict[str, str]) -> None:
    if not adapter.encoders:
        raise LightningMMError(
            f"keep_encoder_outputs: {type(network).__name__} has no module that encodes one modality and nothing else; "
            f"name them in `encoders`, or {LEAVE_OUT}"
        )
    if not chosen:
        name, layer = next(iter(adapted.items()))
        raise LightningMMError(
            f"keep_encoder_outputs: every encoder holds adapted layers, such as {layer!r} in {name!r}, so its outputs "
            f"change as they learn; exclude them (exclude: [{name}*]), or {LEAVE_OUT}"
        )
    if any(getattr(one, "_compiled_call_impl", None) or hasattr(one, "_orig_mod") for one in network.modules()):
        raise LightningMMError(
            f"keep_encoder_outputs: compiled code cannot look outputs up; do not compile the network, or {LEAVE_OUT}"
        )
    for name, encoder in chosen.items():
        for inner, module in encoder.named_modules():
            if module is not encoder and (module._forward_hooks or module._forward_pre_hooks):
                raise LightningMMError(
                    f"keep_encoder_outputs: layer {name}.{inner} has a hook, which would not run for outputs that are "
                    f"kept; remove it, or {LEAVE_OUT}"
                )
    following = [name for name in adapter.deep_supervision if any(f"{name}.".startswith(f"{one}.") for one in chosen)]
    if following:
        raise LightningMMError(
            f"keep_encoder_outputs: {following[0]!r} in an encoder is in training mode, where it may return something "
            f"else each time; {LEAVE_OUT}"
        )
