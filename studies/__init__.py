"""How the demonstration models came about, and studies of what reranking depends on."""
