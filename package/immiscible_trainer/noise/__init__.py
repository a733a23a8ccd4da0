"""The noise stages, for other trainers: `from immiscible_trainer.noise.oversampling import nearest_of`."""

from pathlib import Path

# The stages lie in the program; here they have a name that no other project uses.
__path__ = [str(Path(__file__).resolve().parents[1] / "program" / "plugins" / "noise")]
