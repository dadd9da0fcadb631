"""Outputs of frozen encoders that are kept from one epoch to the next."""
