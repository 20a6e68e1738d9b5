"""Chaos: a fleet is broken on purpose while jobs run, and every pair of them is accounted for."""
