"""What the pages show, as HTML."""
