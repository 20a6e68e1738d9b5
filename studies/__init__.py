"""Training of the demonstration models, and studies of what affects reranking."""
