"""Metrics from the statistics of samples that a sweep stores: other metrics, paired resampling, groups; no torch."""

from lightning_mm.results.per_sample.cells import Cell, cells_of
from lightning_mm.results.per_sample.choose import computable, import_metric, own_metric
from lightning_mm.results.per_sample.metric import Metric
from lightning_mm.results.per_sample.resample import resampled
from lightning_mm.results.per_sample.rescore import rescore, restricted

__all__ = [
    "Cell",
    "Metric",
    "cells_of",
    "computable",
    "import_metric",
    "own_metric",
    "resampled",
    "rescore",
    "restricted",
]
