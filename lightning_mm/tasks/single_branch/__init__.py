"""Training and verification of networks with one branch for all modalities."""
