"""Image files: opened, decoded, fitted to a size, cropped, drawn."""
