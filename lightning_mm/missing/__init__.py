"""Policies that draw which modalities are available, and fills, which are placeholders for absent ones."""

from lightning_mm.missing.csv_table import CsvTable
from lightning_mm.missing.feature_file import EncoderFeatures, read_features, save_features
from lightning_mm.missing.feature_fills import FeatureFill, FeatureMean, FeatureRegression, FeatureRetrieval
from lightning_mm.missing.fills import (
    Constant,
    EmptyText,
    Fill,
    Learned,
    Mean,
    Noise,
    PerModality,
    Tokens,
    Zeros,
    fill_inputs,
)
from lightning_mm.missing.mean_input import MeanInput, mean_inputs, save_mean_inputs
from lightning_mm.missing.mechanisms.blocks import Blockwise
from lightning_mm.missing.mechanisms.field import DependsOnField
from lightning_mm.missing.mechanisms.modality import DependsOnModality
from lightning_mm.missing.mechanisms.same_every_epoch import SameEveryEpoch
from lightning_mm.missing.only_complete import OnlyComplete
from lightning_mm.missing.policies import (
    Complete,
    FixedCombination,
    IndependentMissing,
    MissingnessPolicy,
    RotatingCombinations,
    UniformCombinations,
)
from lightning_mm.missing.rates import MissingRates
from lightning_mm.missing.shares import ExactShare, PairedShare
from lightning_mm.missing.tables import SavedTable, save_table
from lightning_mm.missing.traces.replay import replay
from lightning_mm.missing.traces.trace import AvailabilityTrace
from lightning_mm.missing.weighted import WeightedCombinations

__all__ = [
    "AvailabilityTrace", "Blockwise", "Complete", "Constant", "CsvTable", "DependsOnField", "DependsOnModality",
    "EmptyText", "EncoderFeatures", "ExactShare", "FeatureFill", "FeatureMean", "FeatureRegression", "FeatureRetrieval",
    "Fill", "FixedCombination", "IndependentMissing", "Learned", "Mean", "MeanInput", "MissingRates",
    "MissingnessPolicy", "Noise", "OnlyComplete", "PairedShare", "PerModality", "RotatingCombinations",
    "SameEveryEpoch", "SavedTable", "Tokens", "UniformCombinations", "WeightedCombinations", "Zeros", "fill_inputs",
    "mean_inputs", "read_features", "replay", "save_features", "save_mean_inputs", "save_table",
]  # fmt: skip
