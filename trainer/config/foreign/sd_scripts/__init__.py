"""kohya's sd-scripts: its table, and what several of its keys come to together."""
