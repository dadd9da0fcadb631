"""Verbs about the jobs of studies, one file each."""
