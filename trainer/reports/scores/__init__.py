"""Scores of drawn pictures against a reference."""
