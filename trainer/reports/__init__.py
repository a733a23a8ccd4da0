"""What a person reads about a dataset, its noise and a run: pages, tables and lines."""
