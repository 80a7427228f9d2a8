"""Report: a shard set on one page; survey reads, charts and pictures draw, page writes."""
