"""Kinds of adapters, one file each."""
