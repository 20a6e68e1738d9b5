"""The studies draw, say and compute what they claim."""
