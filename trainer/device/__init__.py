"""Where a run's memory and time go: placement, recomputation, compilation, late reading."""
