"""Choice of the layers to adapt."""
