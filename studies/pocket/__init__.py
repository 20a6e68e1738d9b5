"""`pocket-text`: its corpus, pairs, training and figures."""
