"""Immiscible Trainer as an installed package: the one name that it takes among other packages.

The program itself lies in `program/` with the same folders as the repository, and is put on the path only when its
command runs; `immiscible_trainer.noise` has the noise stages, for other trainers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent / "program"


def main() -> None:
    """The command `immiscible-trainer`, the same as `python launch.py` after its set-up."""
    sys.path.insert(0, str(PROGRAM))
    # For the processes that the program starts itself.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROGRAM), os.environ.get("PYTHONPATH")]))
    from trainer.__main__ import main as run

    run()
