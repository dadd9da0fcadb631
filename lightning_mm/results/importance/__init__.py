"""How much each modality of a sweep is worth: Shapley values, interactions of pairs, their tables; without torch."""

from lightning_mm.results.importance.groups import Group, importance_per_class, importance_per_group, read_groups
from lightning_mm.results.importance.shapley import Importance, importance, sampled_combinations
from lightning_mm.results.importance.tables import print_importance, write_importance

__all__ = [
    "Group", "Importance", "importance", "importance_per_class", "importance_per_group", "print_importance",
    "read_groups", "sampled_combinations", "write_importance",
]  # fmt: skip
