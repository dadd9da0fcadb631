"""How much each modality of a sweep is worth: Shapley values, interactions of pairs, their tables; without torch."""

from lightning_mm.results.importance.shapley import Importance, importance, sampled_combinations
from lightning_mm.results.importance.tables import print_importance, write_importance

__all__ = ["Importance", "importance", "print_importance", "sampled_combinations", "write_importance"]
