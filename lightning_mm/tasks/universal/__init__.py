"""Training of the universal model: a masked autoencoder first, then segmentation that learns from completed samples."""
