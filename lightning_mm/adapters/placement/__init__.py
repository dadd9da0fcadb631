"""Which layers to adapt."""
