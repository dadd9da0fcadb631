"""The universal model: reconstructs absent modalities, and is personalised for the combination of those available."""
