"""Where images are found: folders, metadata files, subsets, and the scan over all of them."""
