"""The sub-commands that submit and look: thin shells over `Client`."""
