"""The config that a page is editing, and its keys as form fields."""
