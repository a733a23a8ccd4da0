"""What a person reads about a run: dataset truth, noise report, learning report."""
