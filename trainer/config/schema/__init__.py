"""The TOML schema: every key with its type, bounds, default and help text, a file for each group of sections.

The only source of the UI form and the JSON schema.
"""
