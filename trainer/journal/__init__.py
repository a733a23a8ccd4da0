"""What a run tells, and where: events and their sinks, the terminal, the names in its folder."""
