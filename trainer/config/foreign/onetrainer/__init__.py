"""OneTrainer: its table, and what several of its keys come to together."""
