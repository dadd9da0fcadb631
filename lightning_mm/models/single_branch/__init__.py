"""One shared branch for all modalities: each modality of a sample is a row of the batch."""
