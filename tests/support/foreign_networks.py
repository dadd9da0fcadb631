"""Small networks of other libraries with random weights, each with an example of one or two inputs.

A network of one input gets two modalities: their sum, or one channel of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import Tensor, nn

from tests.support.adapter_networks import trained_statistics

BATCH = 4
Make = Callable[[], nn.Module]


class Added(nn.Module):
    """Two inputs of one network, added."""

    def __init__(self, network: nn.Module, read: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        self.network, self.read = network, read

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        output = self.network(a + b)
        return self.read(output) if self.read else output


class Channels(Added):
    """Two inputs of one network, one channel each."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        output = self.network(torch.cat([a, b], 1))
        return self.read(output) if self.read else output


class TextAndFeatures(nn.Module):
    """A language model of token ids, and features that are added to its states."""

    def __init__(self, text: nn.Module, width: int) -> None:
        super().__init__()
        self.text, self.features, self.head = text, nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.text(input_ids=a).last_hidden_state.mean(1) + self.features(b))


def _transformers(name: str, **settings: Any) -> nn.Module:
    library = pytest.importorskip("transformers", reason="pip install transformers")
    model = getattr(library, name)
    return model(model.config_class(**settings))


_TEXT = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_GQA = {**_TEXT, "num_key_value_heads": 1, "pad_token_id": 0}


_PLANE = {"spatial_dims": 2, "in_channels": 2, "out_channels": 2}


def _monai(name: str, **settings: Any) -> nn.Module:
    nets = pytest.importorskip("monai.networks.nets", reason="pip install monai")
    return getattr(nets, name)(**settings)


class Graphs(nn.Module):
    """Dense graph convolutions of nodes with a feature of the graph."""

    def __init__(self) -> None:
        super().__init__()
        geometric = pytest.importorskip("torch_geometric.nn", reason="pip install torch_geometric")
        self.first, self.second = geometric.DenseGCNConv(6, 8), geometric.DenseSAGEConv(8, 8)
        self.graph, self.head = nn.Linear(5, 8), geometric.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        edges = torch.ones(a.shape[1], a.shape[1]).triu().expand(len(a), -1, -1)
        x = self.second(self.first(a, edges).relu(), edges).mean(1)
        return self.head(x + self.graph(b))


def _convnext() -> nn.Module:
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(8, 16, 1), block(16, None, 1)], num_classes=3)


def _swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=3)


def _hidden(output: Any) -> Tensor:
    found: Tensor = output.last_hidden_state
    return found


PICTURE, LARGER, SLICE, IDS, NODES = ("picture", 32), ("picture", 64), ("slice", 32), ("ids", 6), ("nodes", 6)
NETWORKS: dict[str, tuple[Make, tuple[str, int]]] = {
    "torchvision MobileNetV3": (lambda: Added(torchvision.models.mobilenet_v3_small(num_classes=3)), PICTURE),
    "torchvision ConvNeXt": (lambda: Added(_convnext()), PICTURE),
    "torchvision Swin": (lambda: Added(_swin()), PICTURE),
    "torchvision DenseNet": (lambda: Added(torchvision.models.DenseNet(8, (2, 2), 16, num_classes=3)), PICTURE),
    "torchvision LR-ASPP": (
        lambda: Added(
            torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=2),
            lambda output: output["out"],
        ),
        LARGER,
    ),
    "timm ViT": (
        lambda: Added(
            timm.create_model(
                "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, init_values=0.5
            )
        ),
        PICTURE,
    ),
    "timm ConvNeXt V2": (lambda: Added(timm.create_model("convnextv2_atto", num_classes=3)), PICTURE),
    "timm MobileViT": (lambda: Added(timm.create_model("mobilevit_xxs", num_classes=3)), LARGER),
    "timm Mixer": (
        lambda: Added(timm.models.mlp_mixer.MlpMixer(3, 32, patch_size=8, num_blocks=2, embed_dim=16)),
        PICTURE,
    ),
    "smp UNet++": (lambda: Added(smp.UnetPlusPlus("resnet18", encoder_weights=None, classes=2)), PICTURE),
    "smp DeepLabV3+": (lambda: Added(smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=2)), LARGER),
    "smp PSPNet": (lambda: Added(smp.PSPNet("mobilenet_v2", encoder_weights=None, classes=2)), LARGER),
    "transformers GPT-2": (
        lambda: TextAndFeatures(
            _transformers("GPT2Model", vocab_size=20, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0),
            16,
        ),
        IDS,
    ),
    "transformers Llama": (lambda: TextAndFeatures(_transformers("LlamaModel", **_GQA), 16), IDS),
    "transformers Gemma": (lambda: TextAndFeatures(_transformers("GemmaModel", **_GQA, head_dim=8), 16), IDS),
    "transformers T5": (
        lambda: TextAndFeatures(
            _transformers("T5EncoderModel", vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2), 16
        ),
        IDS,
    ),
    "transformers DistilBERT": (
        lambda: TextAndFeatures(
            _transformers("DistilBertModel", vocab_size=20, dim=16, hidden_dim=24, n_layers=2, n_heads=2), 16
        ),
        IDS,
    ),
    "transformers CLIP": (
        lambda: Added(
            _transformers(
                "CLIPVisionModel", hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                image_size=32, patch_size=8,
            ),
            _hidden,
        ),
        PICTURE,
    ),
    "transformers Swin V2": (
        lambda: Added(
            _transformers("Swinv2Model", image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
            _hidden,
        ),
        PICTURE,
    ),
    "MONAI UNet": (lambda: Channels(_monai("UNet", **_PLANE, channels=(4, 8, 8), strides=(2, 2))), SLICE),
    "MONAI DynUNet": (
        lambda: Channels(
            _monai(
                "DynUNet", **_PLANE, kernel_size=[3, 3, 3], strides=[1, 2, 2],
                upsample_kernel_size=[2, 2], filters=[4, 8, 8], deep_supervision=True,
            )
        ),
        SLICE,
    ),
    "MONAI SegResNet": (lambda: Channels(_monai("SegResNet", **_PLANE, init_filters=8)), SLICE),
    "MONAI BasicUNet": (lambda: Channels(_monai("BasicUNet", **_PLANE, features=(4, 4, 8, 8, 8, 4))), SLICE),
    "MONAI AttentionUnet": (
        lambda: Channels(_monai("AttentionUnet", **_PLANE, channels=(4, 8, 8), strides=(2, 2))),
        SLICE,
    ),
    "PyG dense convolutions": (Graphs, NODES),
}  # fmt: skip


def network_and_call(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Build a network in eval mode, with norms as after training, and an example of :data:`BATCH` samples."""
    torch.manual_seed(0)
    make, (form, size) = NETWORKS[name]
    network = make().eval()
    trained_statistics(network)
    with torch.no_grad():
        for parameter in network.parameters():  # heads that start at zero hide what comes before them
            if not parameter.any():
                parameter.normal_(0, 0.1)
    generator = torch.Generator().manual_seed(1)
    if form == "ids":
        return network, (torch.randint(1, 20, (BATCH, size), generator=generator), _normal(generator, 5))
    if form == "nodes":
        return network, (_normal(generator, 7, size), _normal(generator, 5))
    shape = (3 if form == "picture" else 1, size, size)
    return network, (_normal(generator, *shape), _normal(generator, *shape))


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(BATCH, *shape, generator=generator)
