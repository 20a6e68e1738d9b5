"""What happens to a request before its route and to its response after it."""
