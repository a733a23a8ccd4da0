"""Starting points for a config: overlays of a family, a card and a purpose, merged into one commented TOML file."""
