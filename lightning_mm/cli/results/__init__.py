"""Verbs that read finished results: no torch, no network."""
