"""What paired noise would do to one's own images."""
