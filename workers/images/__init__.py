"""Images: fetch, decode, quality, resize. Bytes by URI become the pixels that the model sees."""
