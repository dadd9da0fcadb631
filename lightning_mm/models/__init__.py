"""Networks: pure torch, know no Lightning and no adapters."""

from lightning_mm.models.cmnext import CMNeXt
from lightning_mm.models.embedding_prediction import EmbeddingPrediction
from lightning_mm.models.fusion import AttentionFusion, ConcatFusion, Fusion, MaxFusion, MeanFusion
from lightning_mm.models.late_fusion import LateFusionClassifier
from lightning_mm.models.mult import MulT
from lightning_mm.models.segmenter import MultiEncoderSegmenter
from lightning_mm.models.sequence_fusion import SequenceFusionTransformer
from lightning_mm.models.single_branch.network import SingleBranchClassifier
from lightning_mm.models.text_clip import EmbeddingExperts
from lightning_mm.models.token_encoder import TokenEncoder
from lightning_mm.models.universal.network import UniversalSegmenter
from lightning_mm.models.universal.unet import MultiEncoderUNet
from lightning_mm.models.vector_encoders import (
    ImageEncoder,
    SequenceEncoder,
    SpectrogramEncoder,
    VectorEncoder,
    VectorInput,
)
from lightning_mm.models.video import MultiStreamVideoNetwork
from lightning_mm.models.video_encoder import VideoEncoder
from lightning_mm.models.vilt import ViLT

__all__ = [
    "AttentionFusion",
    "CMNeXt",
    "ConcatFusion",
    "EmbeddingExperts",
    "EmbeddingPrediction",
    "Fusion",
    "ImageEncoder",
    "LateFusionClassifier",
    "MaxFusion",
    "MeanFusion",
    "MulT",
    "MultiEncoderSegmenter",
    "MultiEncoderUNet",
    "MultiStreamVideoNetwork",
    "SequenceEncoder",
    "SequenceFusionTransformer",
    "SingleBranchClassifier",
    "SpectrogramEncoder",
    "TokenEncoder",
    "UniversalSegmenter",
    "VectorEncoder",
    "VectorInput",
    "ViLT",
    "VideoEncoder",
]
