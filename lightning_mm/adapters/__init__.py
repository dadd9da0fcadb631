"""Adapters for missing modalities on any ``nn.Module``; pure torch."""

from lightning_mm.adapters.adapt import Adapted, adapt, load
from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.basis import Additive, Basis, OneHot, Pairwise, Shared
from lightning_mm.adapters.build import build_adapter
from lightning_mm.adapters.folded.network import Folded
from lightning_mm.adapters.hyper import Hyper
from lightning_mm.adapters.kept.encoders import KeptEncoders
from lightning_mm.adapters.kept.settings import KeepOutputs
from lightning_mm.adapters.kinds.base import Bank, Kind
from lightning_mm.adapters.kinds.bitfit import BitFit
from lightning_mm.adapters.kinds.bn_refit import BatchNormSSF, NoBatchNormError, refit_batch_norm
from lightning_mm.adapters.kinds.bn_start import start_from_statistics
from lightning_mm.adapters.kinds.bottleneck import Bottleneck, BottleneckBank
from lightning_mm.adapters.kinds.ia3 import IA3, InputScaleBank
from lightning_mm.adapters.kinds.lora import LoRA, LoRABank
from lightning_mm.adapters.kinds.norm_tuning import NormTuning, NormTuningBank
from lightning_mm.adapters.kinds.predicted_features import PredictedFeatures, PredictedFeaturesBank
from lightning_mm.adapters.kinds.prompts import PromptBank, PromptTokens
from lightning_mm.adapters.kinds.ssf import SSF, ScaleOnly, ShiftOnly, SSFBank
from lightning_mm.adapters.kinds.together import Together, TogetherBank
from lightning_mm.adapters.network.features import NoEncodersError, encoder_features
from lightning_mm.adapters.placement.choose import keep_layers, place
from lightning_mm.adapters.placement.sensitivity import LayerSensitivity, sensitivity, sensitivity_table
from lightning_mm.adapters.saving.fingerprint import fingerprint
from lightning_mm.adapters.saving.folder import list_adapters

__all__ = [
    "IA3", "SSF", "Adapted", "Adapter", "Additive", "Bank", "Basis", "BatchNormSSF", "BitFit", "Bottleneck",
    "BottleneckBank", "Folded", "Hyper", "InputScaleBank", "KeepOutputs", "KeptEncoders", "Kind", "LayerSensitivity",
    "LoRA", "LoRABank", "NoBatchNormError", "NoEncodersError", "NormTuning", "NormTuningBank", "OneHot", "Pairwise",
    "PredictedFeatures", "PredictedFeaturesBank", "PromptBank", "PromptTokens", "SSFBank", "ScaleOnly", "Shared",
    "ShiftOnly", "Together", "TogetherBank", "adapt", "build_adapter", "encoder_features", "fingerprint", "keep_layers",
    "list_adapters", "load", "place", "refit_batch_norm", "sensitivity", "sensitivity_table", "start_from_statistics",
]  # fmt: skip
