"""What files hold: lines of input and output, shard and part files, manifests."""
