"""Which images train when: the holdout, the plan, and the batches that follow it."""
