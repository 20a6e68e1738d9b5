"""`rerank doctor`: checks of this machine, the fleet and a model."""
