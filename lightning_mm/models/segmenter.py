"""A segmentation network with one encoder per modality, fused at every scale.

Shapes: B samples, M modalities, C_m channels of modality m, K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.modalities import Modalities
from lightning_mm.models.decoders import DecoderName, build_decoder, scales_read
from lightning_mm.models.encoders import build_encoder
from lightning_mm.models.fusion import Fusion, FusionName, build_fusion
from lightning_mm.models.inputs import check_available, check_images, check_positive, parts_of_modalities


class MultiEncoderSegmenter(nn.Module):
    """Encoders of segmentation-models-pytorch, one per modality, a fusion per scale, and one decoder.

    Args:
        channels: Modality to its number of input channels; the order is the column order of ``available``.
        num_classes: Number of classes K.
        encoder: Name of an encoder of segmentation-models-pytorch (``resnet18``, ``mit_b0``, ``tu-<timm model>``, ...),
            for all modalities or for each.
        encoder_weights: Pretrained weights such as ``imagenet`` (downloaded on first use); ``None`` starts at random.
        encoder_depth: Number of scales, 3 to 5; H and W must be divisible by 2 ** depth.
        fusion: ``mean``, ``max``, ``concat``, ``attention``, or a subclass of :class:`~lightning_mm.models.Fusion`.
        decoder: ``unet``, ``fpn`` or ``segformer``.
        decoder_channels: Widths of the decoder, see :func:`~lightning_mm.models.decoders.build_decoder`.
        mask_absent: True: absent inputs and features never enter; logits and gradients are the same bits whatever
            stands there, and the encoder of a modality that is absent everywhere gets zero gradient. False: the network
            ignores ``available``, as one that was trained with all modalities, and sees the fill of absent ones (the
            setting of arXiv 2310.03986).

    Shape:
        ``{modality: [B, C_m, H, W]}`` and ``Bool[B, M]`` -> logits ``[B, K, H, W]``.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> network = MultiEncoderSegmenter({"rgb": 3, "depth": 1}, num_classes=4, encoder_depth=3)
        >>> inputs = {"rgb": torch.zeros(2, 3, 32, 32), "depth": torch.zeros(2, 1, 32, 32)}
        >>> network(inputs, torch.tensor([[True, True], [True, False]])).shape
        torch.Size([2, 4, 32, 32])
    """

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        encoder: str | dict[str, str] = "resnet18",
        encoder_weights: str | None = None,
        encoder_depth: int = 5,
        fusion: FusionName | type[Fusion] = "mean",
        decoder: DecoderName = "unet",
        decoder_channels: list[int] | None = None,
        mask_absent: bool = True,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.base.initialization import initialize_head

        super().__init__()
        check_choice("encoder_depth", encoder_depth, (3, 4, 5))
        check_positive(num_classes=num_classes)
        self.modalities = Modalities(channels)
        self.channels = dict(channels)
        self.num_classes, self.mask_absent = num_classes, mask_absent
        self.stride = 2**encoder_depth
        built = {
            name: build_encoder(name, name_of_encoder, channels[name], encoder_depth, encoder_weights)
            for name, name_of_encoder in self._encoder_of_each(encoder).items()
        }
        self.encoders = parts_of_modalities(built)
        scales = [part.out_channels[1 : encoder_depth + 1] for part in built.values()]
        # A scale that the decoder does not read is not fused (width 0): no parameter without a use.
        read = scales_read(decoder, encoder_depth)
        widths = [scale if level in read else [0] * len(channels) for level, scale in enumerate(zip(*scales), 1)]
        fusions = [build_fusion(fusion, scale) for scale in widths]
        self.fusion = nn.ModuleList(fusions)
        fused = [0, *(module.out_channels for module in fusions)]
        self.decoder, width = build_decoder(decoder, fused, decoder_channels)
        self.head = SegmentationHead(width, num_classes, kernel_size=3 if decoder == "unet" else 1)
        initialize_head(self.head)

    def forward(
        self, inputs: Mapping[str, Tensor], available: Tensor | None = None
    ) -> Float[Tensor, "batch {self.num_classes} height width"]:
        """Logits of every pixel; ``available=None`` means that all modalities are there."""
        self._check(inputs, available)
        present = available if self.mask_absent else None
        features = []
        for position, (name, encoder) in enumerate(self.encoders.items()):
            image = inputs[name]
            if present is not None:
                # The features of absent rows are masked below; this keeps a NaN out of the encoder's gradients and
                # batch statistics too.
                image = torch.where(present[:, position].view(-1, 1, 1, 1), image, 0.0)
            features.append(encoder(image))
        fused = [fusion([scales[level] for scales in features], present) for level, fusion in enumerate(self.fusion, 1)]
        # smp decoders read nothing but the size of the first entry.
        logits = self.head(self.decoder([features[0][0], *fused]))
        size = inputs[self.modalities[0]].shape[-2:]
        return logits if logits.shape[-2:] == size else F.interpolate(logits, size, mode="bilinear")

    def _encoder_of_each(self, encoder: str | dict[str, str]) -> dict[str, str]:
        if isinstance(encoder, str):
            return dict.fromkeys(self.channels, encoder)
        if set(encoder) != set(self.channels):
            raise LightningMMError(
                f"encoder must name one encoder for each of {list(self.channels)}, got {list(encoder)}; "
                "or give one name for all"
            )
        return {name: encoder[name] for name in self.channels}

    def _check(self, inputs: Mapping[str, Tensor], available: Tensor | None) -> None:
        check_images(inputs, self.channels)
        batch, _, height, width = inputs[self.modalities[0]].shape
        if height % self.stride or width % self.stride:
            raise LightningMMError(
                f"height and width must be divisible by {self.stride} (2 ** encoder_depth), got {height} x {width}; "
                "resize or pad, or use a smaller encoder_depth"
            )
        check_available(available, self.modalities, batch)
