"""Tests of producer/terminal."""
