"""The held-out loss: its questions, and the answers to them."""
