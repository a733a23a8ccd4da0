"""Plugins of the kind 'bases'; files that start with an underscore are shared helpers, never listed."""
