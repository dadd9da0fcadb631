"""CMNeXt and its parts."""
