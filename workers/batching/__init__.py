"""From waiting pairs to packs to results."""
