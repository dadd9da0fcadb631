"""What is missing (policies that draw ``available``) and what stands in its place (fills)."""

from lightning_mm.missing.fills import Constant, Fill, Learned, Mean, Noise, Tokens, Zeros, fill_inputs
from lightning_mm.missing.policies import (
    Complete,
    FixedCombination,
    IndependentMissing,
    MissingnessPolicy,
    RotatingCombinations,
    UniformCombinations,
)
from lightning_mm.missing.tables import SavedTable, save_table

__all__ = [
    "Complete",
    "Constant",
    "Fill",
    "FixedCombination",
    "IndependentMissing",
    "Learned",
    "Mean",
    "MissingnessPolicy",
    "Noise",
    "RotatingCombinations",
    "SavedTable",
    "Tokens",
    "UniformCombinations",
    "Zeros",
    "fill_inputs",
    "save_table",
]
