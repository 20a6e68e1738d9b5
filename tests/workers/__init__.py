"""The scoring side."""
