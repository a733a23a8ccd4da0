"""Gives runs and configs other names."""

from __future__ import annotations

import shutil
from pathlib import Path

import tomlkit
from filelock import FileLock

from trainer.errors import UserError
from trainer.files.atomic import write_text
from trainer.run.holder import holder_of
from ui.work import processes
from ui.workspace import PLAIN_NAME, Workspace, forget, free_name, read_config


def plain(name: str) -> str:
    """Raises UserError unless it is a plain name."""
    name = name.strip()
    if not PLAIN_NAME.fullmatch(name) or name.endswith((".", " ")):
        raise UserError(f"name: found {name!r}, expected a plain name such as my-style (no slashes).")
    return name


def rename_run(workspace: Workspace, old: str, name: str) -> str:
    """The folder, its results and its config get the new name. Returns the run's new id. Raises UserError."""
    run, name = workspace.run(old), plain(name)
    target = run.path.with_name(name)
    with FileLock(workspace.state / "starts.lock"):
        if holder_of(run) or processes.starting(workspace, old):
            raise UserError(f"{old}: is training now; stop it first.")
        if not run.path.is_dir() or target.exists():
            raise UserError(f"{name}: there is such a folder already; choose another name.")
        _rewritten(run.config, name)
        for file in [p for p in run.path.iterdir() if p.name.startswith((f"{run.name}.", f"{run.name}-"))]:
            file.rename(file.with_name(name + file.name.removeprefix(run.name)))
        run.path.rename(target)
        _noted(workspace, old, workspace.relative(target))
    forget()
    return workspace.relative(target)


def _rewritten(config: Path, name: str) -> None:
    if not config.is_file():
        return
    document = tomlkit.parse(read_config(config))
    document.setdefault("run", tomlkit.table())["name"] = name
    write_text(config, tomlkit.dumps(document))


def _noted(workspace: Workspace, old: str, new: str) -> None:
    """What was noted about a run goes with it; it is resumed by its own config from now on."""
    for note in ("starts", "runs"):
        found = workspace.note(note, {})
        if old in found:
            about = found.pop(old)
            workspace.write_note(note, found if note == "starts" else {**found, new: about})


def rename_config(workspace: Workspace, old: str, name: str) -> str:
    path = workspace.config(old)
    target = path.with_name(f"{plain(name.removesuffix('.toml'))}.toml")
    if target.exists():
        raise UserError(f"{target.name}: there is such a file already; choose another name.")
    path.rename(target)
    forget()
    return workspace.relative(target)


def duplicate_config(workspace: Workspace, name: str) -> str:
    path = workspace.config(name)
    target = path.with_name(free_name(path.stem, {p.stem for p in path.parent.glob("*.toml")}) + ".toml")
    shutil.copyfile(path, target)
    forget()
    return workspace.relative(target)
