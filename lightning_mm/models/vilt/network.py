"""ViLT: image patches and words through one transformer, for classification.

Shapes: B samples, L words, H x W pixels in patches of P, C classes, D hidden channels.

Reference: Kim, Son, Kim: ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision, ICML 2021.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.models.inputs import check_inputs, check_positive, check_probability
from lightning_mm.models.released_weights import check_fit, misfit, start_from, unwrap
from lightning_mm.models.vilt.inputs import read_image, read_text, stretched
from lightning_mm.models.vilt.weights import from_reference, is_classifier, lengthened, to_reference

ANY_HEAD, NO_HEAD = "auto", "none"
"""Values of ``head`` other than the name of a reference head."""

_WITHOUT_WEIGHTS = (
    "fetch a checkpoint from the releases of github.com/dandelin/ViLT, or set pretrained to null for a random start"
)
_LOG = logging.getLogger(__name__)


class ViLT(nn.Module):
    """The transformer of ``transformers.ViltModel`` with a classification head, on an image and a text.

    Unlike the reference, which shuffles patches in eval mode too, patches keep their order: outputs are deterministic,
    and do not depend on the other samples of a batch. It does not know which modality is absent: use it with
    ``PerModality({"image": Constant({"image": 1.0}), "text": EmptyText()})``, the convention of arXiv 2303.03369.

    Args:
        num_classes: Number of classes C.
        pretrained: A checkpoint of the reference (github.com/dandelin/ViLT) to start from, its head only if it has
            one that fits; ``None`` starts at random.
        vocab_size: Number of words known; 30522 of BERT uncased.
        hidden_size: D.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Heads of each block.
        intermediate_size: Width inside the MLPs; 4 D when not given.
        image_size: Side in pixels of the images that the positions are for; other sizes interpolate them.
        patch_size: P, which height and width must be divisible by.
        max_text_length: The most words; positions of longer texts than the released 40 are interpolated on loading.
        dropout: In embeddings, attention and MLPs.
        head: Which head of reference weights is loaded into ours, such as ``"food101_classifier"``. ``"auto"`` takes
            the one of classification that is of our shape, and from ``pretrained`` none if there are none or
            several; ``"none"`` leaves ours as it is. A log line names the heads that are left out.

    Shape:
        ``{"image": Float[B, 3, H, W], "text": {"input_ids": Int[B, L], "attention_mask": Int[B, L]}}`` -> logits
        ``Float[B, C]``. Images of different sizes are in the upper left of ``{"pixel_values": Float[B, 3, H, W],
        "pixel_mask": Int[B, H, W]}``, 1 where there is image. ``attention_mask`` may be left out, and
        ``token_type_ids`` may be given.

    Raises:
        DataNotFoundError: If there is no file ``pretrained``.
        LightningMMError: If ``transformers`` is not installed, or a setting, the weights or an input do not fit; the
            message names what was expected.

    Example:
        >>> network = ViLT(3, vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64)
        >>> ids = torch.tensor([[2, 7, 3], [2, 3, 0]])
        >>> text = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        >>> network({"image": torch.ones(2, 3, 64, 64), "text": text}).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_classes: int = 101,
        pretrained: str | None = None,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int | None = None,
        image_size: int = 384,
        patch_size: int = 32,
        max_text_length: int = 40,
        dropout: float = 0.0,
        head: str = ANY_HEAD,
    ) -> None:
        super().__init__()
        check_positive(
            num_classes=num_classes, vocab_size=vocab_size, num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads, patch_size=patch_size, max_text_length=max_text_length,
        )  # fmt: skip
        check_probability(dropout=dropout)
        if hidden_size % num_attention_heads or image_size % patch_size or image_size < patch_size:
            raise LightningMMError(
                "hidden_size must be divisible by num_attention_heads and image_size by patch_size, got "
                f"{hidden_size} / {num_attention_heads} and {image_size} / {patch_size}"
            )
        try:
            from transformers import ViltConfig, ViltModel
        except ImportError as error:
            raise LightningMMError(
                f"ViLT needs transformers, which cannot be imported ({error}): pip install 'lightning-mm[transformers]'"
            ) from error
        self.modalities = Modalities(["image", "text"])
        self.num_classes, self.patch_size, self.max_text_length = num_classes, patch_size, max_text_length
        self.grid = image_size // patch_size
        self.reference_head = head
        config = ViltConfig(
            vocab_size=vocab_size, hidden_size=hidden_size, num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads, intermediate_size=intermediate_size or 4 * hidden_size,
            image_size=image_size, patch_size=patch_size, max_position_embeddings=max_text_length,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, layer_norm_eps=1e-6,
        )  # fmt: skip
        self.backbone = ViltModel(config)
        # Two values in the reference, which the one setting of transformers cannot say.
        self.backbone.embeddings.text_embeddings.LayerNorm.eps = 1e-12
        first, last = nn.Linear(hidden_size, 2 * hidden_size), nn.Linear(2 * hidden_size, num_classes)
        for layer in (first, last):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.head = nn.Sequential(first, nn.LayerNorm(2 * hidden_size), nn.GELU(), last)
        if pretrained is not None:
            start_from(
                "pretrained", pretrained, "ViLT weights", _WITHOUT_WEIGHTS, lambda state: self._load(state, head, False)
            )

    def forward(self, inputs: Mapping[str, Nest]) -> Float[Tensor, "batch {self.num_classes}"]:
        """Logits of every sample."""
        pooler: Any = self.backbone.pooler  # which the type of transformers calls optional
        logits: Tensor = self.head(pooler(self.features(inputs)))
        return logits

    def features(self, inputs: Mapping[str, Nest]) -> Float[Tensor, "batch token channel"]:
        """Outputs of the last norm: L words, the image's class token, and the patches row by row."""
        check_inputs(inputs, self.modalities)
        words, word_mask = self._text(inputs["text"])
        patches, patch_mask = self._image(inputs["image"])
        if words.shape[0] != patches.shape[0]:
            raise LightningMMError(f"expected as many texts as images, got {words.shape[0]} and {patches.shape[0]}")
        tokens = torch.cat([words, patches], dim=1)
        seen = torch.cat([word_mask, patch_mask], dim=1)
        # The parts of ViltModel and not its forward, which draws patches at random.
        mask = torch.where(seen, 0.0, torch.finfo(tokens.dtype).min).to(tokens.dtype)[:, None, None, :]
        encoded = self.backbone.encoder(tokens, attention_mask=mask, return_dict=True)
        normed: Tensor = self.backbone.layernorm(encoded.last_hidden_state)
        return normed

    def _text(self, text: Nest) -> tuple[Tensor, Tensor]:
        """Embedded words ``[B, L, D]`` and which of them count, ``Bool[B, L]``."""
        ids, mask, types = read_text(text, self.max_text_length)
        embeddings = self.backbone.embeddings
        words = embeddings.text_embeddings(input_ids=ids, token_type_ids=types)
        return words + embeddings.token_type_embeddings(torch.zeros_like(ids)), mask

    def _image(self, image: Nest) -> tuple[Tensor, Tensor]:
        """Embedded class token and patches ``[B, 1 + N, D]``, and which of them count, ``Bool[B, 1 + N]``."""
        pixels, mask = read_image(image, self.patch_size)
        embeddings = self.backbone.embeddings
        patches = embeddings.patch_embeddings(pixels)
        batch, _, rows, columns = patches.shape
        if mask is None:
            mask = torch.ones(batch, rows, columns, dtype=torch.bool, device=patches.device)
            heights, widths = (torch.full((1,), size, device=patches.device) for size in (rows, columns))
        else:
            heights, widths = mask[:, :, 0].sum(1), mask[:, 0, :].sum(1)
        table = embeddings.position_embeddings
        square = table[0, 1:].unflatten(0, (self.grid, self.grid))
        placed = patches.flatten(2).transpose(1, 2) + stretched(square, heights, widths, rows, columns)
        first = (embeddings.cls_token + table[:, :1]).expand(batch, -1, -1)
        tokens = embeddings.dropout(torch.cat([first.to(placed.dtype), placed], dim=1))
        mask = torch.cat([mask.new_ones(batch, 1), mask.flatten(1)], dim=1)
        return tokens + embeddings.token_type_embeddings(mask.long().new_ones(mask.shape)), mask

    def load_reference(self, state: Mapping[str, Any], head: str | None = None) -> None:
        """Load the released weights, strictly; nothing is changed if they do not fit.

        Args:
            state: The ``state_dict`` of a reference checkpoint (``text_embeddings.*``, ``transformer.blocks.*``, ...),
                bare or as the entry ``state_dict``.
            head: As the argument of the class, which it is by default; but ``"auto"`` must find a head: without one
                ours would stay random.

        Raises:
            LightningMMError: If keys are unknown, missing or of another shape, the first ones are named; or if there
                is no such head, or several for ``"auto"``.
        """
        self._load(state, self.reference_head if head is None else head, must=True)

    def _load(self, state: Mapping[str, Any], head: str, must: bool) -> None:
        """Load the released weights; with ``must`` the head ``"auto"`` has to be one of them."""
        renamed, heads = from_reference(unwrap(state))
        text_key = "embeddings.text_embeddings.position_embeddings.weight"
        if text_key in renamed:
            renamed[text_key] = lengthened(renamed[text_key], self.max_text_length)
        loaded = {f"backbone.{key}": value for key, value in renamed.items()}
        chosen = self._chosen_head(heads, head, must)
        if chosen is not None:
            loaded |= {f"head.{key}": value for key, value in heads.pop(chosen).items()}
        own = self.state_dict()
        expected = {key: own[key] for key in own if chosen is not None or not key.startswith("head.")}
        hint = "use the sizes that they were trained with (names are those of transformers)"
        check_fit(expected, loaded, "released weights", "ViLT", hint)
        if chosen is not None:
            _LOG.info("ViLT: the head %s of the reference weights is ours", chosen)
        if heads:
            _LOG.info("ViLT: the heads %s of the reference weights are left out", ", ".join(sorted(heads)))
        self.load_state_dict({**own, **loaded})

    def _chosen_head(self, heads: Mapping[str, Mapping[str, Tensor]], head: str, must: bool) -> str | None:
        """The name of the head that is loaded; None leaves ours as it is."""
        if head == NO_HEAD:
            return None
        if head != ANY_HEAD:
            if head not in heads:
                raise LightningMMError(f"the state_dict has no head {head!r}, only {sorted(heads)}")
            return head
        own = self.head.state_dict()
        fitting = [name for name in sorted(heads) if is_classifier(name) and not misfit(own, heads[name])]
        if len(fitting) == 1 or not must:
            return fitting[0] if len(fitting) == 1 else None
        found = f"several heads for {self.num_classes} classes, {fitting}: set head to one of them"
        if not fitting:
            found = (
                f"no head for {self.num_classes} classes, only {sorted(heads)}: ours would stay random. Give weights "
                f"that have one, train a base from these as `pretrained` first, or set head to {NO_HEAD!r}"
            )
        raise LightningMMError(f"the reference weights have {found}")

    def to_reference(self, head: str | None = None) -> dict[str, Tensor]:
        """The weights under the reference's keys; our head under the name ``head``, left out if none is given."""
        state: dict[str, Any] = to_reference(self.backbone.state_dict())
        if head is not None:
            state |= {f"{head}.{key}": value for key, value in self.head.state_dict().items()}
        return state
