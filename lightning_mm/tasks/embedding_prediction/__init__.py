"""Training of networks that predict absent embeddings (arXiv 2407.12616, own reconstruction)."""
