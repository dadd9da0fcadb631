"""Finds values that are not finite, and what they come from, before they spoil a network or a table."""
