"""Tests of producer/inputs."""
