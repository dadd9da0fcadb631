"""Masks that policies of missingness draw for the samples of a sweep."""
