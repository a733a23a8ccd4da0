"""How several processes share one training."""
