"""A head whose weights may be other ones for every sample, and the network that makes them.

Shapes: B samples, M modalities, K classes, C features, W = (C + 1) (2 C + 1) weights of a class (153 for C = 8), D
features of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.modalities import Modalities


class ClassHead(nn.Module):
    """Three 1x1 convolutions per class, C to C to C to 1, with ReLU in between; the weights may differ between samples.

    Args:
        width: Features C.
        num_classes: Number of classes K.

    Shape:
        ``[B, C, *size]`` and changes of the weights ``[B, K, W]`` -> logits ``[B, K, *size]``.

    Reference:
        The form of the head in arXiv 2301.00785 (CLIP-driven universal model); own code.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.width, self.num_classes = width, num_classes
        self.shapes = [(width, width), (width, width), (1, width)]
        self.weights = nn.Parameter(torch.empty(num_classes, (width + 1) * (2 * width + 1)))
        start = 0
        with torch.no_grad():
            for rows, columns in self.shapes:
                size = rows * columns
                kernel = self.weights[:, start : start + size].view(num_classes, rows, columns)
                for of_class in kernel:
                    nn.init.kaiming_uniform_(of_class, nonlinearity="relu")
                self.weights[:, start + size : start + size + rows] = 0.0
                start += size + rows

    def forward(
        self,
        features: Float[Tensor, "batch {self.width} *size"],
        change: Float[Tensor, "batch klass weight"] | None = None,
    ) -> Float[Tensor, "batch {self.num_classes} *size"]:
        """Logits; ``change`` is added to the weights of each sample."""
        batch, size = features.shape[0], features.shape[2:]
        weights = self.weights.unsqueeze(0)
        weights = weights.expand(batch, -1, -1) if change is None else weights + change
        values = features.flatten(2).unsqueeze(1).expand(-1, self.num_classes, -1, -1)
        start = 0
        for layer, (rows, columns) in enumerate(self.shapes):
            kernel = weights[:, :, start : start + rows * columns].unflatten(2, (rows, columns))
            start += rows * columns
            bias = weights[:, :, start : start + rows]
            start += rows
            values = torch.einsum("bkoi,bkip->bkop", kernel, values) + bias.unsqueeze(3)
            if layer < len(self.shapes) - 1:
                values = values.relu()
        return values.squeeze(2).unflatten(2, size)


class CombinationHyper(nn.Module):
    """Changes of the weights of a :class:`ClassHead` from the combination of a sample and its bottleneck features.

    ``change = MLP([key(combination), mean over positions of the bottleneck])``, where the last layer starts at zero: at
    the start, the head is the same for all combinations.

    Args:
        modalities: Names of the columns of ``available``, in order.
        features: Features D of the bottleneck.
        num_classes: Number of classes K.
        weights: Weights W of a class.
        text: A safetensors file with a vector of E numbers for every combination under its name (``flair+t2``), such as
            a frozen embedding of "MRI with FLAIR and T2"; without it the key is made of the mask itself.
        key: Width of the key.
        hidden: Width of the hidden layer.

    Shape:
        ``Bool[B, M]`` and ``[B, D, *size]`` -> ``[B, K, W]``.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If the file is damaged, lacks a combination, or its vectors are of different lengths.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        features: int,
        num_classes: int,
        weights: int,
        text: str | None = None,
        key: int = 64,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.modalities, self.num_classes = Modalities(modalities), num_classes
        table = None if text is None else _read(Path(text), self.modalities)
        # part of the state: a deployed network needs no file
        self.register_buffer("table", table)
        self.key = nn.Linear(len(modalities) if table is None else table.shape[1], key)
        self.hidden = nn.Linear(key + features, hidden)
        self.change = nn.Linear(hidden, num_classes * weights)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(
        self, available: Bool[Tensor, "batch modality"], bottleneck: Float[Tensor, "batch feature *size"]
    ) -> Float[Tensor, "batch {self.num_classes} weight"]:
        """Changes of the weights of the head for every sample."""
        pooled = bottleneck.flatten(2).mean(2)
        table = cast("Tensor | None", self.table)
        said = available if table is None else table[self.modalities.code(available)]
        hidden = self.hidden(torch.cat([self.key(said.to(pooled.dtype)).relu(), pooled], dim=1)).relu()
        change: Tensor = self.change(hidden)
        return change.unflatten(1, (self.num_classes, -1))


def _read(path: Path, modalities: Modalities) -> Float[Tensor, "mask feature"]:
    """The vectors of all combinations, each at the number whose bits are its mask; zeros for the empty one."""
    if not path.is_file():
        raise DataNotFoundError(
            f"text: no file of embeddings at {path}; write one with safetensors, a vector for each combination"
        )
    try:
        found = load_file(path)
    except Exception as error:  # safetensors reports damage in many ways, depending on where it begins
        raise LightningMMError(f"text: {path} is damaged or no safetensors file ({error}); write it again") from error
    vectors = {modalities.canonical(name): value for name, value in found.items()}
    lacking = [name for name in modalities.combinations() if name not in vectors]
    if lacking:
        raise LightningMMError(
            f"text: {path} has no embedding of {lacking[0]!r}; it must hold one for each of the "
            f"{2 ** len(modalities) - 1} combinations of {list(modalities)}, got {list(found)[:5]}"
        )
    chosen = {name: vectors[name] for name in modalities.combinations()}
    sizes = {tuple(value.shape) for value in chosen.values()}
    if len(sizes) > 1 or len(next(iter(sizes))) != 1:
        raise LightningMMError(f"text: {path}: expected vectors of one length, got shapes {sorted(sizes)}")
    table = torch.zeros(2 ** len(modalities), *next(iter(sizes)))
    for name, value in chosen.items():
        table[modalities.code(modalities.mask(name))] = value.float()
    if not table.isfinite().all():
        raise LightningMMError(f"text: {path} holds numbers that are not finite; write it again")
    return table
