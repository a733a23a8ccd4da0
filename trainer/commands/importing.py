"""What the command `import` does: another trainer's file becomes a TOML file of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config.importing.run import imported
from trainer.errors import UserError
from trainer.files.atomic import write_text
from trainer.journal.console import Console


def import_file(path: Path, output: Path | None, *, without: Sequence[str], script: str, overwrite: bool) -> Path:
    """Returns where the result was written: `output`, or <name>-imported.toml beside the file."""
    target = output or path.with_name(f"{path.stem}-imported.toml")
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already: give another name with -o, or add --overwrite.")
    found = imported(path, target, without=without, script=script)
    console = Console()
    for line in found.told:
        console.say(line)
    write_text(target, found.text)
    console.say(f"written to {target}")
    if found.left:
        console.say(f"to fill in there, since {path.name} does not say them in full: {', '.join(found.left)}")
    console.say(f"next: python launch.py check {target}")
    return target
