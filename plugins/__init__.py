"""One file = one plugin: dropping a file into noise/, models/ or objectives/ is the whole installation."""
