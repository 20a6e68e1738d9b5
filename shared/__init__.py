"""The contract that producers and workers agree on. Imports neither side, nor torch."""
