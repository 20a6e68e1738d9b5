"""`pocket-vl`: drawn scenes, what may be said of them, training and measuring."""
