"""Bytes by URI: local files, S3 objects, uploads."""
