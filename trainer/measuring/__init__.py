"""The held-out loss of a run, and what is known of it."""
