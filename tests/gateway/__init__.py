"""The gateway: contracts, errors, jobs, uploads, metrics."""
