"""Shared by tests: waiting, a server, fakes, and a worker without a model."""
