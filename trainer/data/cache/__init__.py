"""What frozen encoders make of images and captions, kept in memory or on disk."""
