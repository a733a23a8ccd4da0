"""Which optimizers there are and what they take, read from their libraries' sources: importing these takes seconds.

What only the classes themselves can tell is left to trainer.optim.optimizers.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.optim import other_names
from trainer.optim.other_names import plain

# Those that ask for what a step does not compute.
UNFIT = {"adahessian": "second derivatives", "sophiah": "second derivatives", "sparseadam": "sparse gradients"}
# Those that take matrices and everything else in groups of their own, as torch's Muon does not.
MATRIX = ("muon", "adamuon", "normuon", "muonclip", "adago")
# Where the libraries list their classes.
LISTS = {
    "torch": ("torch", "optim/__init__.py"),
    "bitsandbytes": ("bitsandbytes", "optim/__init__.py"),
    "pytorch_optimizer": ("pytorch_optimizer", "optimizer/__init__.py"),
}
OWN = {"adafactor": ("adafactor.py", "Adafactor"), "dadaptadan": ("dadapt_adan.py", "DAdaptAdan")}
_GIVEN = {"self", "params", "lr"}


@dataclass(frozen=True)
class ClassSource:
    file: Path
    name: str


def problems(name: str, args: Mapping[str, Any]) -> list[str]:
    """What is wrong with optimizer.name or optimizer.args, as far as the sources tell."""
    try:
        told = other_names.known(name)
        found = _find(told.ours or plain(name), name)
        if found is None:
            return []
        refuse_unfit(found.name)
        args = other_names.translated(told, args)
    except UserError as error:
        return error.problems
    names = accepted(found)
    unread_ones = [n for n in args if names is not None and n not in names and not _is_default(found, n, args[n])]
    return [unread(unread_ones[0], found.name, names or ())] if unread_ones else []


def unknown(name: str) -> UserError:
    known = {*OWN, *(one for library in LISTS for one in listed(library))}
    near = difflib.get_close_matches(plain(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(
        f"optimizer.name: found {name!r}, expected an optimizer of torch.optim ({', '.join(sorted(listed('torch')))}), "
        "bitsandbytes (such as adamw8bit), pytorch-optimizer (such as prodigy, lion), or module.Class."
        f"{hint}"
    )


def unread(argument: str, kind: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(argument, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"optimizer.args.{argument}: {kind} has no such argument; it has: {', '.join(names)}.{hint}"


def refuse_unfit(kind: str) -> None:
    """Raises UserError."""
    if (wanted := UNFIT.get(kind.lower())) is not None:
        raise UserError(f"optimizer.name: {kind} needs {wanted}, which training does not compute.")


def _find(name: str, written: str = "") -> ClassSource | None:
    """None for module.Class, which is anybody's. Raises UserError for a name that is in no list."""
    if "." in name:
        return None
    if name in OWN:
        file, kind = OWN[name]
        return ClassSource(Path(__file__).with_name(file), kind)
    for library in ("pytorch_optimizer",) if name in MATRIX else LISTS:
        if name in (known := listed(library)):
            return known[name]
    raise unknown(written or name)


@cache
def listed(library: str) -> dict[str, ClassSource]:
    """What a library lists, classes that are no optimizers among them, by the name in small letters."""
    package, inside = LISTS[library]
    spec = find_spec(package)
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec is not None else Path()
    if spec is None or not (folder / inside).is_file():
        return {}  # no wheel for this system
    here = (folder / inside).parent
    found: dict[str, ClassSource] = {}
    for node in _tree(folder / inside).body:
        if isinstance(node, ast.ImportFrom) and (file := _file(node, here, folder)) is not None:
            found |= {a.name.lower(): ClassSource(file, a.name) for a in node.names if a.name[:1].isupper()}
    found.pop("optimizer", None)
    return found


def _file(node: ast.ImportFrom, here: Path, package: Path) -> Path | None:
    """Of a module of the same package that a list imports from."""
    module = (node.module or "").split(".")
    if node.level == 1:
        return here.joinpath(*module).with_suffix(".py")
    return package.joinpath(*module[1:]).with_suffix(".py") if module[0] == package.name and len(module) > 1 else None


def accepted(found: ClassSource) -> tuple[str, ...] | None:
    """The names of a class's arguments besides weights and rate, as trainer.optim.arguments tells them; None where its
    own constructor does not say."""
    constructor = _constructor(found)
    if constructor is None or constructor.args.kwarg is not None:
        return None
    read = {n.id for n in ast.walk(constructor) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    names = [a.arg for a in (*constructor.args.args, *constructor.args.kwonlyargs)]
    return tuple(n for n in names if n not in _GIVEN and n in read)


def _is_default(found: ClassSource, name: str, value: Any) -> bool:
    """Of an argument that nothing reads."""
    constructor = _constructor(found)
    if constructor is None or name in _GIVEN:
        return False
    args = constructor.args
    pairs = [
        *zip(args.args[::-1], args.defaults[::-1], strict=False),
        *zip(args.kwonlyargs, args.kw_defaults, strict=True),
    ]
    return any(a.arg == name and default is not None and ast.unparse(default) == repr(value) for a, default in pairs)


@cache
def _constructor(found: ClassSource) -> ast.FunctionDef | None:
    if not found.file.is_file():
        return None
    classes = [n for n in _tree(found.file).body if isinstance(n, ast.ClassDef) and n.name == found.name]
    inside = [n for c in classes for n in c.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    return inside[0] if len(inside) == 1 else None


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
