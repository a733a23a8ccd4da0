"""Studies: arms x seeds over an ordinary config, trained, measured and compared in pairs.

They use the product from outside: its command line, and the files that a run writes.
"""
