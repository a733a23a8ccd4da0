"""What moves the weights: which of them, by which optimizer, at which rate, and how a step is taken."""
