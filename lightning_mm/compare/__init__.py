"""Compares methods for missing modalities: methods x combinations x seeds of one data set in one table."""

from lightning_mm.compare.executor import Executor, InProcess, processes
from lightning_mm.compare.recipes import RECIPES, Recipe
from lightning_mm.compare.results import collect, draw, write
from lightning_mm.compare.runner import run_study
from lightning_mm.compare.study import Method, Study, read_study

__all__ = [
    "RECIPES", "Executor", "InProcess", "Method", "Recipe", "Study", "collect", "draw", "processes", "read_study",
    "run_study", "write",
]  # fmt: skip
