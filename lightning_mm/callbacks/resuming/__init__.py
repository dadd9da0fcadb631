"""Stopping a training so that it can be resumed exactly."""

from lightning_mm.callbacks.resuming.resume_checkpoint import RESUME, SETTINGS, ResumeCheckpoint

__all__ = ["RESUME", "SETTINGS", "ResumeCheckpoint"]
