"""Plugins of the kind 'models'; files that start with an underscore are shared helpers, never listed."""
