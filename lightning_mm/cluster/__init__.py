"""Submission of commands and studies to a cluster, and what became of them."""
