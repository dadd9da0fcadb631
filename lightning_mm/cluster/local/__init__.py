"""A queue on this machine, for machines without a scheduler."""
