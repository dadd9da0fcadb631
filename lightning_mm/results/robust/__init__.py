"""Robustness of methods to missing modalities: areas, MultiBench's figures, expectations, and their tables."""

from lightning_mm.results.robust.expected import BERNOULLI, Scenario, bernoulli, usual_scenarios
from lightning_mm.results.robust.figures import Robustness, robustness

__all__ = ["BERNOULLI", "Robustness", "Scenario", "bernoulli", "robustness", "usual_scenarios"]
