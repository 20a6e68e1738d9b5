"""Tests of producer/inputs/catalog.py: catalogs from their images and queries to their rows."""
