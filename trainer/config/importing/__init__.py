"""Turns another program's file into a TOML file of ours, and tells what became of each of its keys."""
