"""Fold a fill of features: in the network of one combination, encoders of absent modalities are constants."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from lightning_mm.adapters.folded.constants import OneRowForward
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import FeatureFill
from lightning_mm.missing.encoder_forward import EncoderForward
from lightning_mm.tree import map_tensors, tensors_of


class FeatureForward(OneRowForward):
    """A replacement for the ``forward`` of an encoder that does not run: every sample gets the same features.

    Args:
        encoder: The encoder.
        modality: Name of its modality.
        row: Its output for an absent sample, with one row.
    """

    def __init__(self, encoder: nn.Module, modality: str, row: Any) -> None:
        super().__init__(encoder, modality)
        self.row = row

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        size = tensors_of((args, kwargs))[0].shape[0]
        # a copy: the network may change it in place
        return map_tensors(
            self.row, lambda leaf: leaf.expand(size, *leaf.shape[1:]).clone(memory_format=torch.contiguous_format)
        )


def fold_features(network: nn.Module, fill: FeatureFill, present: Collection[str]) -> nn.Module:
    """Return a copy of a network with the features of absent modalities as constants, for one combination.

    Args:
        network: The network that the fill is installed in; not changed.
        fill: The fill.
        present: The modalities of the combination.

    Raises:
        LightningMMError: If the features depend on those of the present modalities.
    """
    refuse_reading_others(fill)
    folded = copy.deepcopy(network)
    for name in fill.modalities:
        encoder = folded.get_submodule(fill.encoders[name])
        ours = vars(encoder).pop("forward")
        if not isinstance(ours, EncoderForward):
            raise LightningMMError(
                f"the encoder of {name!r} was changed after the fill was installed; install it again"
            )
        if ours.own is not None:
            encoder.forward = ours.own
        if name not in present:
            row = map_tensors(fill.mean(name), lambda leaf: leaf.detach().clone())
            encoder.forward = FeatureForward(encoder, name, row)
    return folded


def refuse_reading_others(fill: FeatureFill) -> None:
    """Refuse fills whose features are no constants.

    Raises:
        LightningMMError: The message names the fill and the way out.
    """
    if fill.reads_others:
        raise LightningMMError(
            f"the fill {type(fill).__name__} computes the features of an absent modality from those of the present "
            "ones, so they fold to no constant and are not exported; use FeatureMean, whose features are constants"
        )
