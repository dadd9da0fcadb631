"""Saving and loading of adapters."""
