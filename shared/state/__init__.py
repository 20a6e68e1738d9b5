"""The rooms that speak Redis: the state of jobs and shards, heartbeats, counters."""
