"""Tests of the state in Redis."""
