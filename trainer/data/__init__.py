"""From the dataset tables of a config to batches."""
