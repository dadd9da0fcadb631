"""Availability over time: modalities that come and go within a stream."""
