"""The TOML file: its schema, how it is read and checked, and what is said when it is wrong."""
