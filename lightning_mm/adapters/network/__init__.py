"""Inputs, layers and encoders of an adapted network."""
