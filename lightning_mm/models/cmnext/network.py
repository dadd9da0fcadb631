"""CMNeXt: a segmentation network with a strong branch for RGB and one branch that all other modalities share.

Shapes: B samples, M modalities, K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.modalities import Modalities
from lightning_mm.models.cmnext.blocks import AuxiliaryStage
from lightning_mm.models.cmnext.fusion import FeatureFusion, FeatureRectification
from lightning_mm.models.cmnext.mix_transformer import HEADS, SIZES, MixTransformerStage, drop_path_rates, initialise
from lightning_mm.models.cmnext.segformer_head import SegFormerHead
from lightning_mm.models.cmnext.weights import mit_parts, reference_parts
from lightning_mm.models.inputs import check_images, check_positive, check_probability
from lightning_mm.models.released_weights import load_released, renamed, start_from, unwrap

Variant = Literal["B0", "B1", "B2", "B3", "B4", "B5"]
SMALLEST = 32
"""Pixels of a side; below, nothing is left of the keys of attention."""

_WITHOUT_MIT = (
    "fetch the file of this variant (mit_b0.pth to mit_b5.pth) from where github.com/NVlabs/SegFormer says, or set "
    "mit_weights to null: a random start, right for a checkpoint or base_ckpt, which brings its own weights"
)


class CMNeXt(nn.Module):
    """The first modality runs through a Mix Transformer, all others together through blocks of pooling attention.

    At each of four scales the strongest features of the other modalities are selected, the two streams rectify each
    other, and are fused for a SegFormer head. The network does not know which modalities are missing: it sees their
    fill (zeros, as in arXiv 2310.03986). With the released weights it returns the logits of the official
    implementation.

    Args:
        variant: Size of both branches, ``B0`` (10 M parameters) to ``B5``.
        modalities: Two or more names, the main one (RGB) first. The released weights know the order, not the names.
        num_classes: Number of classes K.
        reference_reshape: True: with three or more modalities, read the features kept of each as the official
            implementation does, their memory ``[C, H, W]`` as if it were ``[H, W, C]``, before the next scale; needed
            for weights that were trained so. False: as it is.
        drop_path: Highest rate of dropped residual branches, rising with depth from 0 (in training alone).
        dropout: Share of channels that are dropped before the classifier (in training alone).
        mit_weights: A file of a Mix Transformer of this size that was trained on ImageNet, for the main branch, see
            :meth:`load_mit`; the rest starts at random. ``None`` starts all of it at random. Weights
            that are loaded later replace it, and a checkpoint does not need the file.

    Shape:
        ``{modality: [B, 3, H, W]}`` -> logits ``[B, K, H, W]``; H and W from 32 on, best divisible by 32.

    Raises:
        DataNotFoundError: If there is no file ``mit_weights``.
        LightningMMError: If a setting, the weights or an input do not fit; the message names it.

    Example:
        >>> import torch
        >>> network = CMNeXt("B0", ["rgb", "thermal"], num_classes=9)
        >>> network({"rgb": torch.zeros(2, 3, 32, 64), "thermal": torch.zeros(2, 3, 32, 64)}).shape
        torch.Size([2, 9, 32, 64])

    Reference:
        Zhang et al., "Delivering Arbitrary-Modal Semantic Segmentation", CVPR 2023, arXiv 2303.01480.
    """

    def __init__(
        self,
        variant: Variant,
        modalities: list[str],
        num_classes: int,
        reference_reshape: bool = True,
        drop_path: float = 0.1,
        dropout: float = 0.1,
        mit_weights: str | None = None,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, SIZES)
        check_positive(num_classes=num_classes)
        check_probability(drop_path=drop_path, dropout=dropout)
        self.modalities = Modalities(modalities)
        if len(self.modalities) < 2:
            raise LightningMMError(
                f"CMNeXt needs a main modality and at least one other, got {list(self.modalities)}; "
                "for one alone take a SegFormer"
            )
        self.channels = dict.fromkeys(self.modalities, 3)
        self.num_classes, self.reference_reshape = num_classes, reference_reshape
        size, others = SIZES[variant], self.modalities.names[1:]
        self.depths = size.depths
        rates = drop_path_rates(drop_path, size.depths)
        self.main = nn.ModuleList(MixTransformerStage(stage, size, rates[stage]) for stage in range(4))
        self.auxiliary = nn.ModuleList(AuxiliaryStage(others, stage, size, rates[stage]) for stage in range(4))
        self.rectify = nn.ModuleList(FeatureRectification(width) for width in size.widths)
        self.fuse = nn.ModuleList(FeatureFusion(width, heads) for width, heads in zip(size.widths, HEADS))
        self.head = SegFormerHead(size.widths, 256 if variant in ("B0", "B1") else 512, num_classes, dropout)
        initialise(self)
        if mit_weights is not None:
            start_from("mit_weights", mit_weights, "MiT weights", _WITHOUT_MIT, self.load_mit)

    def forward(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch {self.num_classes} height width"]:
        """Logits of every pixel."""
        check_images(inputs, self.channels)
        if min(inputs[self.modalities[0]].shape[2:]) < SMALLEST:
            height, width = inputs[self.modalities[0]].shape[2:]
            raise LightningMMError(f"height and width must be at least {SMALLEST}, got {height} x {width}")
        main, *others = self.modalities
        features, auxiliary = inputs[main], {name: inputs[name] for name in others}
        fused = []
        for stage in range(4):
            features = self.main[stage](features)
            kept, together = self.auxiliary[stage](auxiliary)
            features, together = self.rectify[stage](features, together)
            fused.append(self.fuse[stage](features, together))
            auxiliary = self._next(kept, together)
        return F.interpolate(self.head(fused), inputs[main].shape[2:], mode="bilinear")

    def load_reference(self, state_dict: Mapping[str, Any]) -> None:
        """Load weights of the official implementation, strictly; nothing changes unless all of them fit.

        Args:
            state_dict: As released: bare, under ``model_state_dict`` (training checkpoints) or ``state_dict``, with or
                without ``module.`` before all keys.

        Raises:
            LightningMMError: If a key is missing or left over or a shape differs; the message says which.
        """
        hint = "build it with the variant, the number of modalities and the num_classes of the weights"
        load_released(self, unwrap(state_dict), self._reference_keys(), "released weights", hint)

    def to_reference(self) -> dict[str, Tensor]:
        """The weights under the names of the official implementation: the inverse of :meth:`load_reference`."""
        own = self.state_dict()
        return {released: own[key] for key, released in self._reference_keys().items()}

    def load_mit(self, state_dict: Mapping[str, Any]) -> None:
        """Load a Mix Transformer that was trained on ImageNet (as SegFormer released it) into the main branch alone.

        Args:
            state_dict: Keys such as ``patch_embed1.proj.weight``; its classifier ``head.*`` is left out.

        Raises:
            LightningMMError: If a key is missing or left over or a shape differs; the message says which.
        """
        keys = renamed([key for key in self.state_dict() if key.startswith("main.")], mit_parts(self.depths))
        load_released(self, unwrap(state_dict, ["head."]), keys, "MiT weights", "take those of the same variant")

    def _reference_keys(self) -> dict[str, str]:
        return renamed(self.state_dict(), reference_parts(self.depths, self.modalities.names[1:]))

    def _next(self, kept: dict[str, Tensor], together: Tensor) -> dict[str, Tensor]:
        """Make the inputs of the next scale, one for every other modality."""
        if len(kept) == 1:
            return dict.fromkeys(kept, together)
        if self.reference_reshape:
            batch, channels, height, width = together.shape
            kept = {
                name: features.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
                for name, features in kept.items()
            }
        return {name: features + together for name, features in kept.items()}
