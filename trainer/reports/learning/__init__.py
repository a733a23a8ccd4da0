"""Whether a run learned, and which of two runs learned more."""
