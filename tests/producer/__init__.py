"""Tests of the side that submits."""
