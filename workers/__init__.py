"""The side that scores: worker processes, the monitor, and the engine."""
