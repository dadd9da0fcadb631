"""How the parts of CMNeXt are called here, in its released weights, and in those of MiT.

Reference: https://github.com/jamycheung/DELIVER; https://github.com/NVlabs/SegFormer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAIN_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.query": "attn.q",
    "attention.key_value": "attn.kv",
    "attention.output": "attn.proj",
    "attention.reduction": "attn.sr",
    "attention.norm": "attn.norm",
    "feed_forward.expand": "mlp.fc1",
    "feed_forward.mix": "mlp.dwconv.dwconv",
    "feed_forward.contract": "mlp.fc2",
}
AUXILIARY_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.spread": "attn.conv0",
    "attention.gate": "attn.conv4",
    "feed_forward.expand": "mlp.fc1",
    "feed_forward.mix": "mlp.dwconv.dwconv",
    "feed_forward.contract": "mlp.fc2",
    "channel_mix": "c_nets.0",
    "scale1": "layer_scale_1",
    "scale2": "layer_scale_2",
}
RECTIFICATION = {
    "channel_hidden": "channel_weights.mlp.0",
    "channel_gates": "channel_weights.mlp.2",
    "position_hidden": "spatial_weights.mlp.0",
    "position_gates": "spatial_weights.mlp.2",
}
FUSION = {
    "main.project": "cross.channel_proj1",
    "main.key_value": "cross.cross_attn.kv1",
    "main.output": "cross.end_proj1",
    "main.norm": "cross.norm1",
    "other.project": "cross.channel_proj2",
    "other.key_value": "cross.cross_attn.kv2",
    "other.output": "cross.end_proj2",
    "other.norm": "cross.norm2",
    "mix.shortcut": "channel_emb.residual",
    "mix.reduce": "channel_emb.channel_embed.0",
    "mix.spread": "channel_emb.channel_embed.1",
    "mix.expand": "channel_emb.channel_embed.3",
    "mix.norm_mixed": "channel_emb.channel_embed.4",
    "mix.norm": "channel_emb.norm",
}
HEAD = {
    **{f"projections.{stage}": f"linear_c{stage + 1}.proj" for stage in range(4)},
    "fuse": "linear_fuse.conv",
    "norm": "linear_fuse.bn",
    "classifier": "linear_pred",
}


def mit_parts(depths: Sequence[int]) -> dict[str, str]:
    """Parts of the main stream to those of a released MiT."""
    parts = {}
    for stage, depth in enumerate(depths):
        parts[f"main.{stage}.embedding.projection"] = f"patch_embed{stage + 1}.proj"
        parts[f"main.{stage}.embedding.norm"] = f"patch_embed{stage + 1}.norm"
        for block in range(depth):
            parts |= _below(f"main.{stage}.blocks.{block}", f"block{stage + 1}.{block}", MAIN_BLOCK)
        parts[f"main.{stage}.norm"] = f"norm{stage + 1}"
    return parts


def reference_parts(depths: Sequence[int], auxiliary: Sequence[str]) -> dict[str, str]:
    """Parts of the whole network to those of the released CMNeXt.

    Args:
        depths: Blocks of each stage.
        auxiliary: All modalities but the first, which the released weights number.
    """
    parts = mit_parts(depths)
    for stage, depth in enumerate(depths):
        own = f"auxiliary.{stage}"
        parts[f"{own}.embedding.projection"] = f"extra_downsample_layers.{stage}.proj.module"
        for number, name in enumerate(auxiliary):
            parts[f"{own}.embedding.norms.{name}"] = f"extra_downsample_layers.{stage}.norm.ln_{number}"
            parts[f"{own}.selection.scores.{name}"] = f"extra_score_predictor.{stage}.score_nets.{number}"
        for block in range(depth):
            parts |= _below(f"{own}.blocks.{block}", f"extra_block{stage + 1}.{block}", AUXILIARY_BLOCK)
        parts[f"{own}.norm"] = f"extra_norm{stage + 1}"
        parts |= _below(f"rectify.{stage}", f"FRMs.{stage}", RECTIFICATION)
        parts |= _below(f"fuse.{stage}", f"FFMs.{stage}", FUSION)
    parts = {own: f"backbone.{released}" for own, released in parts.items()}
    return parts | _below("head", "decode_head", HEAD)


def _below(own: str, released: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{own}.{name}": f"{released}.{other}" for name, other in names.items()}
