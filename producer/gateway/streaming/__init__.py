"""Responses that are sent while they are produced."""
