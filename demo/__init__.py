"""The demonstration: a tiny base model made here from nothing, and a LoRA of real handwriting trained on it."""
