"""Everything that is kept in Redis: jobs, shards, heartbeats, counters. No other room uses it."""
