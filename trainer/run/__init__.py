"""One run from its start to its end: its folder, what it writes, how it is checked before and goes on after."""
