"""Engines that make shards of tasks: each is a small generator of outcomes."""
