"""The pictures that a run draws: prompts, samplers, sheets."""
