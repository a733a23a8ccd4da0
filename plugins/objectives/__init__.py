"""Plugins of the kind 'objectives'; files that start with an underscore are shared helpers, never listed."""
