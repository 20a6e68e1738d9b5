"""Tests, mirroring the source tree; `support` holds what they share."""
