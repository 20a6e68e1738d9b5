"""Tests of responses that are sent while they are produced."""
