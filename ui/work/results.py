"""What runs have made for use elsewhere."""

from __future__ import annotations

from pathlib import Path

from trainer.journal.run_dir import RunDir
from ui.workspace import Workspace

SUFFIXES = {".safetensors"}
SEPARATOR = " / "  # between a run and one of its results


def files_of(run: RunDir) -> list[Path]:
    """The files that a run has made, the final one first."""
    files = [p for p in run.path.glob("*") if p.suffix in SUFFIXES and p.is_file()]
    return sorted(files, key=lambda p: (p.stem != run.name, p.name))


def of_run(run: RunDir) -> list[Path]:
    """The same with the folders of whole models."""
    return [*files_of(run), *(p.parent for p in sorted(run.path.glob("*/model_index.json")))]


def results(workspace: Workspace) -> dict[str, tuple[RunDir, Path]]:
    """Everything that was trained, by the name it is chosen by."""
    return {
        f"{name}{SEPARATOR}{path.name}": (run, path) for name, run in workspace.runs().items() for path in of_run(run)
    }
