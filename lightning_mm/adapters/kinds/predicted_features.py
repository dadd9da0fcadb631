"""The output of an absent modality's encoder, predicted from the outputs of the encoders of present modalities.

The encoder of modality m sums its output ``z_m`` up in R numbers, ``code_m = gelu(down_m norm(z_m) + offset_m)``. Where
modality k is absent, its encoder returns what it makes of the fill, plus ``bias_k`` and the mean of ``up_km code_m``
over the present modalities m. Changes start at zero: a fresh adapter is exactly the zero-fill baseline.

Shapes: B samples, M modalities, C channels of the encoder, R rank.

Reference: Own reconstruction. arXiv 2407.12616 predicts the embedding of an absent modality from each present one and
takes the mean; its body could not be read. The change of what the base makes of the fill, the low rank with one
``down`` for all targets, the norm without weights and training by the loss of the task alone were chosen by us.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Bank, Kind
from lightning_mm.adapters.layers.half import plus
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.tracing import full_precision
from lightning_mm.errors import LightningMMError, NotApplicableError, check_whole

CHANNEL_AXES = {2: 1, 3: 2, 4: 1, 5: 1}
"""Of the outputs of encoders, by their number of axes: vectors, tokens, images, volumes."""


class PredictedFeaturesBank(Bank):
    """``down [1, R, C]`` and ``offset [R]`` read this encoder; ``up [M - 1, R, C]`` and ``bias [C]``, zero, replace it.

    Args:
        column: Column of the modality in ``available``.
        sources: Columns of the modalities that have an encoder too.
        channels: C.
        rank: R.
        aligned: See :class:`PredictedFeatures`.
    """

    foldable = False
    behind_encoder = True
    has_rows = False

    def __init__(self, column: int, sources: Sequence[int], channels: int, rank: int, aligned: bool) -> None:
        super().__init__()
        self.column, self.sources, self.aligned = column, list(sources), aligned
        bound = 1 / math.sqrt(channels)  # as torch initialises a layer
        self.down = nn.Parameter(torch.empty(1, rank, channels).uniform_(-bound, bound))
        self.offset = nn.Parameter(torch.empty(rank).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(len(self.sources), rank, channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *changed"]:
        """In the first step of a call, note the code of this encoder; in the second, replace rows without modality."""
        encoded = call.encoded
        if encoded is None:
            return output
        layout, batch = call.site.layout(output), encoded.available.shape[0]
        features = layout.channels_last(output, batch)
        if features.shape[-1] != self.bias.shape[0]:
            raise LightningMMError(
                f"PredictedFeatures: encoder {call.site.name!r} returned {list(output.shape)}, expected "
                f"{self.bias.shape[0]} channels on axis {layout.channel_axis} as for `example`; three axes are read as "
                "samples, tokens, channels: move the channels last in the encoder, or leave it out of `encoders`"
            )
        with full_precision(output.device.type):
            if encoded.collecting:
                # a copy where its values are needed for the gradient: the network may change the output in place
                encoded.note(self.column, self._code(features.clone() if features.requires_grad else features))
                return output
            absent = ~encoded.available[:, self.column] & call.uses_rows()
            change = self._change(call, features)
            changed = plus(features, change)
        absent = absent.view(-1, *[1] * (features.ndim - 1))
        return layout.channels_back(torch.where(absent, changed, features))

    def _code(self, features: Float[Tensor, "batch step *position channel"]) -> Float[Tensor, "batch step *any rank"]:
        # float64 if the adapter was cast to it
        normed = F.layer_norm(features.to(self.down.dtype), features.shape[-1:])
        code = F.gelu(F.linear(normed, self.down[0], self.offset))
        return code if self.aligned or code.ndim == 3 else code.flatten(2, -2).mean(2)

    def _change(
        self, call: LayerCall, features: Float[Tensor, "batch step *position channel"]
    ) -> Float[Tensor, "*#any channel"]:
        assert call.encoded is not None
        total: Any = 0.0
        count: Any = 0
        for up, source in zip(self.up, self.sources):
            code = call.encoded.codes.get(source)
            if code is None:
                continue
            if code.ndim > 3 and code.shape[2:-1] != features.shape[2:-1]:
                raise LightningMMError(
                    f"PredictedFeatures(aligned=True): encoder {call.site.name!r} returns {list(features.shape[2:-1])} "
                    f"positions and that of another modality {list(code.shape[2:-1])}; expected the same, or use "
                    "aligned=False"
                )
            # a code without positions is the same at all of them
            code = code.view(*code.shape[:2], *[1] * (features.ndim - code.ndim), *code.shape[2:])
            present = call.encoded.available[:, source].view(-1, *[1] * (code.ndim - 1))
            # no product with the mask: 0 * NaN is NaN
            total, count = total + torch.where(present, code @ up, 0.0), count + present.int()
        return self.bias if isinstance(total, float) else total / count.clamp(min=1) + self.bias


class PredictedFeatures(Kind):
    """The output of the encoder of an absent modality is predicted from those of the present ones; zero-fill at first.

    For networks with an encoder for at least two modalities (``adapt(..., encoders={...})``, or modules of
    ``network.encoders`` found by trial). The predictors belong to pairs of modalities and have no rows of the basis:
    all combinations share them, and the mean over the present modalities makes them fit any combination, seen or not.
    The basis only says which combinations are adapted, which matters for ``OneHot(combinations=[...])``. With
    :class:`Together`, other kinds use the basis as always. ``C (M R + 1) + R`` parameters for each encoder.

    The network runs in two steps: up to its last encoder, then as a whole; encoders run once. The task loss trains it;
    ``distillation.layers`` of a task, with the names of the encoders, adds one on their outputs.

    Args:
        rank: R, the numbers that each encoder passes to the others.
        aligned: Whether the outputs are maps or tokens with the same positions in all modalities, such as images of one
            scene: features are then predicted position by position. If not, from the mean over positions (padding
            counts), and the change is the same at all positions.

    Raises:
        LightningMMError: If the rank is not a whole number of at least 1; later, if an encoder merges samples and
            steps.
        NotApplicableError: Later, if fewer than two modalities have an encoder that returns a tensor, or the network
            masks absent features.
    """

    targets = (nn.Module,)

    def __init__(self, rank: int = 4, aligned: bool = False) -> None:
        check_whole("PredictedFeatures: rank", rank, 1)
        self.rank, self.aligned = rank, aligned

    def choose_encoders(
        self, network: nn.Module, modalities: Sequence[str], encoders: Mapping[str, str]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        if len(encoders) < 2:
            found = f"only {next(iter(encoders))!r}" if encoders else "none"
            raise NotApplicableError(
                f"PredictedFeatures needs encoders of at least two of the modalities {list(modalities)} and a fill, "
                f"and {type(network).__name__} has {found}; name modules that each encode one modality and nothing "
                "else, and run once in a call, in `encoders`"
            )
        if getattr(network, "mask_absent", False) is True:
            raise NotApplicableError(
                f"{type(network).__name__} masks the features of absent modalities itself (mask_absent: true), so "
                "PredictedFeatures has no effect; use another kind for this network"
            )
        columns = {modality: list(modalities).index(modality) for modality in encoders}
        return {
            name: {
                "channel_axis": CHANNEL_AXES,
                "column": columns[modality],
                "sources": sorted(column for other, column in columns.items() if other != modality),
            }
            for modality, name in encoders.items()
        }, {}

    def idle(self, sites: Sequence[Site]) -> str | None:
        if len(sites) < 2:
            raise NotApplicableError(
                f"PredictedFeatures predicts encoders from each other, and only that of {sites[0].name!r} is left: "
                "`exclude`, `targets` or an output that is no tensor takes the others away; encoders return one tensor "
                "[B, ...], or a tuple that begins with it"
            )
        return None

    def bank(self, site: Site, rows: int) -> PredictedFeaturesBank:
        if any(layout.order != "plain" for layout in site.layouts):
            raise LightningMMError(
                f"encoder {site.name!r} returns samples merged with steps on one axis; PredictedFeatures needs outputs "
                "with one row per sample, batch first"
            )
        details = site.details
        return PredictedFeaturesBank(details["column"], details["sources"], site.channels, self.rank, self.aligned)
