"""The composition root: the one place that turns a whole config into objects."""
