"""Robustness of methods to missing modalities: areas, MultiBench's figures, expectations, and their tables."""

from lightning_mm.results.robust.expected import BERNOULLI, Scenario, bernoulli, usual_scenarios
from lightning_mm.results.robust.figures import Robustness, robustness
from lightning_mm.results.robust.presence import PresenceCurve, presence_curves, presence_table

__all__ = [
    "BERNOULLI", "PresenceCurve", "Robustness", "Scenario", "bernoulli", "presence_curves", "presence_table",
    "robustness", "usual_scenarios",
]  # fmt: skip
