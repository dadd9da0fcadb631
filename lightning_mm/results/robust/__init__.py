"""Robustness of methods to missing modalities: areas, MultiBench's figures, expectations, and their tables."""

from lightning_mm.results.robust.expected import BERNOULLI, Scenario, bernoulli, usual_scenarios
from lightning_mm.results.robust.figures import Robustness, robustness
from lightning_mm.results.robust.grid import Grid, grid_markdown, print_grid
from lightning_mm.results.robust.missing import P_MISSING, draw_curves, missing_curves
from lightning_mm.results.robust.policies import policy_figures
from lightning_mm.results.robust.presence import PresenceCurve, presence_curves, presence_table

__all__ = [
    "BERNOULLI", "P_MISSING", "Grid", "PresenceCurve", "Robustness", "Scenario", "bernoulli", "draw_curves",
    "grid_markdown", "missing_curves", "policy_figures", "presence_curves", "presence_table", "print_grid",
    "robustness", "usual_scenarios",
]  # fmt: skip
