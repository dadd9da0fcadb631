"""Saved adapters."""
