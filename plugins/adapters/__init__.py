"""Plugins of the kind 'adapters'; files that start with an underscore are shared helpers, never listed."""
