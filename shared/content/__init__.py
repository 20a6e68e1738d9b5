"""What is ranked: contents, requests, their outcomes, and the options of scoring."""
