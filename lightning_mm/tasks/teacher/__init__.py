"""Distillation from a teacher that sees every observed modality."""
