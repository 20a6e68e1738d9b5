"""Tests of producer/coordinator."""
