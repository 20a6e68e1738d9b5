"""What a job reads: JSON Lines, CSV and Parquet, listings and prefixes of images."""
