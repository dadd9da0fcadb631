"""ViLT and its parts."""
