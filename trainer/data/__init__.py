"""From the dataset tables of a config to batches: scan, captions, buckets, images, cache, plan, loader."""
