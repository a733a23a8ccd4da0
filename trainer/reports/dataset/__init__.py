"""What will train and what is odd about it."""
