"""Verbs that run many trainings."""
