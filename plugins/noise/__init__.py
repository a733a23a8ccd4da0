"""Plugins of the kind 'noise'; files that start with an underscore are shared helpers, never listed."""
