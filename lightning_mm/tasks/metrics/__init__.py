"""Metrics of the tasks, in the conventions of the field."""
