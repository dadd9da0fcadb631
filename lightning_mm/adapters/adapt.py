"""Freeze a network and attach an adapter for missing modalities.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.build import build_adapter
from lightning_mm.adapters.folded.network import Folded, fold_network
from lightning_mm.adapters.kinds.base import Kind
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.saving.folder import load_adapter, save_adapter
from lightning_mm.missing import Fill, Zeros
from lightning_mm.modalities import Modalities


class Adapted(nn.Module):
    """A frozen base and its adapter; called like the base, with ``available``.

    Only the adapter has trainable parameters: ``AdamW(p for p in adapted.parameters() if p.requires_grad)``. The hooks
    stay on the base until :meth:`remove`; call the base itself only after that. Several threads may call one adapted
    network, each with its own masks.
    """

    def __init__(self, base: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter
        adapter.attach(base)

    def forward(self, *args: Any, available: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the base with the banks of each sample's combination.

        Args:
            *args: Passed to the base with absent inputs filled.
            available: ``Bool[B, M]``; rows may differ. None means that all modalities are present.
            **kwargs: Passed to the base with absent inputs filled.
        """
        with self.adapter.using(available):
            return self.base(*args, **kwargs)

    def train(self, mode: bool = True) -> Adapted:
        """Set the mode of the adapter; the base stays in eval mode, but returns what it does in this mode."""
        super().train(mode)
        self.base.eval()
        self.adapter.freeze()
        return self

    def fold(self, combination: str, example: Call | None = None) -> Folded:
        """Fold the adapter into the weights of a plain copy of the base, for one combination.

        The copy fills absent inputs itself and has no hooks of the adapter, except at layers with hooks of the user or
        a ``forward`` of their own, where the adapter stays at the output (the log names them). It is compared with this
        network on an example: the one given here, or the one that the network was adapted with; a loaded adapter has
        none, so give one.

        Args:
            combination: Its name, e.g. ``"rgb+depth"``.
            example: ``(args, kwargs)`` of a typical call. If given, the ``encoders`` of absent modalities become
                constants without weights, which no call has to compute, and the copy accepts inputs of these shapes
                only (any batch size). If not, they run on one row in every call.

        Raises:
            LightningMMError: If the combination does not exist, a layer cannot be folded or makes the copy differ (it
                is named), or an encoder cannot become a constant.
        """
        return fold_network(self.base, self.adapter, combination, example)

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json``; only the fingerprint of the base is saved.

        Args:
            folder: Created if missing.
            name: Name of one of several adapters in the folder; its files are then written to ``folder/name``.
        """
        save_adapter(self.adapter, self.base, folder, name)

    def remove(self) -> nn.Module:
        """Remove the hooks and return the base, bit for bit as it was."""
        self.adapter.detach()
        return self.base


def adapt(
    network: nn.Module,
    modalities: Modalities | Iterable[str],
    kind: Kind,
    *,
    example: Call,
    basis: Basis | None = None,
    fill: Fill | None = Zeros(),
    inputs: Mapping[str, str] | None = None,
    targets: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    encoders: Mapping[str, str] | None = None,
    grouped: bool = False,
) -> Adapted:
    """Freeze a network and attach an adapter for missing modalities.

    The network may be any ``nn.Module`` with any ``forward``; its module tree, its ``state_dict`` and its outputs with
    all modalities do not change. A fresh adapter is exactly the zero-fill baseline.

    Args:
        network: The trained base; frozen in place until :meth:`Adapted.remove`.
        modalities: Names in order.
        kind: What is learned at each layer, e.g. ``SSF()``.
        example: ``(args, kwargs)`` of a typical call, batch first; it shows which layers run and which axes of their
            outputs hold samples and channels.
        basis: How availability picks rows from the banks; default ``OneHot()``.
        fill: Placeholder for absent inputs; with None inputs are not changed, only routed.
        inputs: Modality to the parameter that holds it (``"image"``), or a path into a dict argument
            (``"batch.image"``); default: the name of the modality.
        targets: Names or patterns (``"encoders.*"``) of layers to adapt; default: all linear, convolution,
            normalisation and attention layers that run.
        exclude: Names or patterns of layers to leave out, e.g. ``["head*"]``.
        encoders: Modality to the name of the module that encodes it and nothing else (``{"rgb": "backbone.rgb"}``). It
            then runs once for all samples of one combination that lack its modality, instead of once for each. Default:
            the modules of ``network.encoders`` that pass a trial on the example; ``{}`` for none.
        grouped: Whether the network runs once per combination in a batch instead of once for all. This adapts layers
            with an unknown batch axis too, but cannot be compiled. Tensors that are not batch first in the example (the
            first axis differs in length from that of the modalities) are passed to every run unchanged.

    Raises:
        LightningMMError: If an input is not found, a pattern matches no layer, or a layer named in ``targets`` cannot
            be adapted.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_mm.adapters import SSF, adapt
        >>> class Sum(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.rgb, self.depth = nn.Linear(3, 4), nn.Linear(1, 4)
        ...     def forward(self, image, depth):
        ...         return self.rgb(image) + self.depth(depth)
        >>> network, call = Sum(), ((torch.randn(2, 3), torch.randn(2, 1)), {})
        >>> adapted = adapt(network, ["rgb", "depth"], SSF(), inputs={"rgb": "image"}, example=call)
        >>> adapted(*call[0], available=torch.tensor([[True, False], [True, True]])).shape
        torch.Size([2, 4])

    Reference:
        Reza et al., arXiv 2310.03986, section 3.
    """
    adapter = build_adapter(
        network,
        modalities,
        kind,
        basis=basis,
        fill=fill,
        inputs=inputs,
        example=example,
        targets=targets,
        exclude=exclude,
        encoders=encoders,
        grouped=grouped,
    )
    return Adapted(network, adapter)


def load(folder: str | Path, network: nn.Module, name: str | None = None) -> Adapted:
    """Attach a saved adapter to the network it was trained on; errors name every mismatch (see ``load_adapter``).

    To switch from one adapter to another: ``network = adapted.remove(); adapted = load(folder, network, "other")``.

    Args:
        folder: As given to :meth:`Adapted.save`.
        network: The base.
        name: As given to :meth:`Adapted.save`; :func:`list_adapters` lists the names in a folder.
    """
    return Adapted(network, load_adapter(folder, network, name))
