"""Submits one command: its profile, its files in the run folder, its jobs."""
