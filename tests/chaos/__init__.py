"""Tests of the chaos driver, and a short run of it."""
