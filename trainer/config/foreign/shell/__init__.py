"""Command lines of shells: which words they hold once quotes, continued lines and variables are taken in."""
