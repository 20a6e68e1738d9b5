"""What submits work and reads results. Works without torch."""
