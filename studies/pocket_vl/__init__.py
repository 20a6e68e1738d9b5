"""`pocket-vl`: drawn scenes, captions, training and evaluation."""
