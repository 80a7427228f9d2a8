"""Shards to encoder."""
