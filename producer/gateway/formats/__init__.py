"""One module per wire format: its body and its answer."""
