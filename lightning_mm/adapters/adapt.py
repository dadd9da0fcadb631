"""``adapt``: a frozen network with an adapter for missing modalities.

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
    stay on the base until :meth:`remove`; call the base itself only after that.
    """

    def __init__(self, base: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter
        adapter.attach(base)

    def forward(self, *args: Any, available: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the base with the banks of each sample's combination.

        Args:
            *args: Handed to the base, absent inputs filled.
            available: ``Bool[B, M]``; rows may differ. None stands for all present.
            **kwargs: Handed to the base.
        """
        with self.adapter.using(available):
            return self.base(*args, **kwargs)

    def train(self, mode: bool = True) -> Adapted:
        """Set the adapter's mode; the base stays in eval."""
        super().train(mode)
        self.base.eval()
        return self

    def fold(self, combination: str, example: Call | None = None) -> Folded:
        """A plain copy of the base for one combination: adapter in its weights, absent inputs filled, no hooks.

        Args:
            combination: Its name.
            example: ``(args, kwargs)`` of a typical call. With it, the ``encoders`` of absent modalities become
                constants without weights, which no call has to compute, and the copy takes inputs of these shapes only
                (any batch size). Without it they run on one row in every call.

        Raises:
            LightningMMError: If the combination does not exist, a layer cannot take the fold (it is named), or an
                encoder cannot be a constant.
        """
        return fold_network(self.base, self.adapter, combination, example)

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json``; of the base, only its fingerprint.

        Args:
            folder: Made if it is not there.
            name: Of one of several adapters in the folder, whose files then lie in ``folder/name``.
        """
        save_adapter(self.adapter, self.base, folder, name)

    def remove(self) -> nn.Module:
        """Take the hooks off and give the base back, bit for bit."""
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
    """Freeze a network and give it an adapter for missing modalities.

    The network is any ``nn.Module`` with any ``forward``; its module tree, its ``state_dict`` and its outputs with all
    modalities stay as they are. A fresh adapter is exactly the zero-fill baseline.

    Args:
        network: The trained base; frozen in place until :meth:`Adapted.remove`.
        modalities: Names in order.
        kind: What is learned at each layer, e.g. ``SSF()``.
        example: ``(args, kwargs)`` of a typical call, batch first; it tells which layers fire and where samples and
            channels lie in their outputs.
        basis: How availability picks from the banks, default ``OneHot()``.
        fill: What stands for an absent input; None leaves inputs alone and only routes.
        inputs: Modality to the parameter that holds it (``"image"``), or a path into a dict argument
            (``"batch.image"``); default: its own name.
        targets: Names or patterns (``"encoders.*"``) of layers to adapt; default: all linear, convolution,
            normalisation and attention layers that fire.
        exclude: Names or patterns of layers to leave out, e.g. ``["head*"]``.
        encoders: Modality to the name of the module that encodes it and nothing else (``{"rgb": "backbone.rgb"}``). It
            then runs once for all samples of one combination that lack its modality, instead of once for each. Default:
            those of ``network.encoders`` that a trial on the example finds fit; ``{}`` for none.
        grouped: Whether the network runs once per combination in a batch instead of once for all. Layers whose batch
            axis cannot be told can be adapted so; cannot be compiled. Tensors that are not batch first in the example
            (one whose first axis is not as long as that of the modalities) go to every run as they are.

    Raises:
        LightningMMError: If an input is not found, a pattern fits no layer, or a layer named in ``targets`` cannot be
            adapted.

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
    """Attach a saved adapter to the network it was trained on; errors name what does not fit (see ``load_adapter``).

    To change from one adapter to another: ``network = adapted.remove(); adapted = load(folder, network, "other")``.

    Args:
        folder: As given to :meth:`Adapted.save`.
        network: The base.
        name: As given to :meth:`Adapted.save`; :func:`list_adapters` tells which there are.
    """
    return Adapted(network, load_adapter(folder, network, name))
