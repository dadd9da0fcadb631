"""Types, axes, modulation and folding of adapted layers."""
