"""From contents to token ids, in the official templates."""
