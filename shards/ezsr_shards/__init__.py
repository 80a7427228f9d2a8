"""The contract: what an event stream, a sample and a shard are."""
