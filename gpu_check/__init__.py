"""Gets out of a card what it can do, in one command: its speed, its memory, and which presets fit it."""
