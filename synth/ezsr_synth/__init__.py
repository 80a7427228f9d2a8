"""Images to shards: still pictures in, event streams out."""
