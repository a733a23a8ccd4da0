"""What `preset` does: lists the starting points there are, or writes one as a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config.presets.choosing import KINDS, choices, preset_of, text_of, title
from trainer.errors import UserError
from trainer.files.atomic import write_text
from trainer.journal.console import Console

HOW = "python launch.py preset sdxl 12gb style -o my.toml     one word of each kind, in any order"


def preset(words: Sequence[str], output: Path | None, *, overwrite: bool) -> None:
    """Raises UserError; without an output the config is printed."""
    if not words:
        for line in listed():
            Console().say(line)
        return
    chosen = preset_of(words)
    if output is None:
        print(text_of(chosen), end="")
        return
    write(output, text_of(chosen), overwrite=overwrite)
    Console().say(f"wrote {output} ({chosen.name}, about {chosen.memory:.1f} GB). Now change its paths, then:")
    Console().say(f"python launch.py check --preflight {output}")


def listed() -> list[str]:
    lines = [HOW]
    for kind in KINDS:
        lines += ["", f"{kind}:", *(f"  {name:<10} {title(kind, name)}" for name in choices(kind))]
    return lines


def write(output: Path, text: str, *, overwrite: bool) -> None:
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"--output: {output} can't be written: it must be a file in a folder that is there.")
    if output.exists() and not overwrite:
        raise UserError(f"--output: {output} is there already; give another name, or --overwrite to replace it.")
    try:
        write_text(output, text)
    except OSError as error:
        raise UserError(f"--output: {output} could not be written ({error.strerror or error}).") from None
