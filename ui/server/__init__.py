"""What stands between the browser and the pages: the guard, and links to files."""
