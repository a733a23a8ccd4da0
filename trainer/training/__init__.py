"""The heart: what a step is, and the loop around it."""
