"""Which arguments an optimizer's class really reads: some take any, and forget those that they do not know."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

OURS = {"self", "params", "lr", "name", "initial_lr", "use_muon"}  # given by the groups and schedules
_READS = {"get", "pop", "setdefault"}


def accepted(kind: type[Any]) -> tuple[str, ...] | None:
    """The names of a class's arguments besides weights and rate; None where it hands all it gets on to something else,
    which then checks them."""
    parameters = inspect.signature(kind.__init__).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [n for n, p in parameters.items() if p.kind in kinds and n not in OURS and _is_read(kind, n)]
    rest = next((n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    if rest is None:
        return tuple(named)
    hidden = _read_from(kind, rest)
    return None if hidden is None else tuple(dict.fromkeys([*named, *sorted(hidden)]))


def meant(value: Any) -> Any:
    """What a text such as "True", "1e-2" or "(0.9, 0.99)" says, as sd-scripts reads it; other texts stay."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(value.strip().lower(), value.strip()))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def misfit(kind: Any, name: str, value: Any) -> str:
    """What a class expects instead of a value, told by its default; "" where it may fit."""
    found = inspect.signature(kind.__init__).parameters.get(name)
    default = None if found is None else found.default
    if isinstance(default, bool):
        return "" if isinstance(value, (bool, int, type(None))) else "true or false"
    if isinstance(default, (int, float)):
        return "a number" if isinstance(value, (str, list, tuple)) else ""
    if isinstance(default, tuple):
        fits = isinstance(value, (list, tuple)) and len(value) == len(default)
        return "" if value is None or fits else f"{len(default)} numbers such as {list(default)}"
    return ""


def is_default(kind: Any, name: str, value: Any) -> bool:
    """Whether a named argument that nothing reads has the value that it would have anyway."""
    parameter = inspect.signature(kind.__init__).parameters.get(name)
    return parameter is not None and name not in OURS and bool(parameter.default == value)


def read_at_once(kind: type[Any]) -> frozenset[str]:
    """The unnamed arguments that the constructor itself looks up."""
    rest = next((n for n, p in inspect.signature(kind.__init__).parameters.items() if p.kind is p.VAR_KEYWORD), "")
    tree = _source(kind.__init__)
    return frozenset(_keys_read(tree, lambda name: name == rest) if tree is not None else ())


def _is_read(kind: Any, name: str) -> bool:
    """bitsandbytes' classes name arguments that they forget, such as the nesterov of its SGD."""
    tree = _source(kind.__init__)
    if tree is None:
        return True
    return any(_is(node, name) and isinstance(node.ctx, ast.Load) for node in ast.walk(tree))  # type: ignore[attr-defined]


def _read_from(kind: Any, rest: str) -> set[str] | None:
    """The names that a constructor, its bases' or the steps read of the arguments that it does not name."""
    tree, found = _source(kind.__init__), set()
    if tree is None:
        return set()
    found |= set(_keys_read(tree, lambda name: name == rest))
    for node in ast.walk(tree):
        if _becomes_defaults(node, rest):
            found |= _read_of_groups(kind)
        elif isinstance(node, ast.Call) and any(k.arg is None and _is(k.value, rest) for k in node.keywords):
            if ast.unparse(node.func) != "super().__init__":
                return None
            above = accepted(_base(kind))
            if above is None:
                return None
            given = {k.arg for k in node.keywords}
            found |= set(above) - given
    return found


def _becomes_defaults(node: ast.AST, rest: str) -> bool:
    """Whether the arguments become settings of the groups: {..., **kwargs}, dict(..., **kwargs), x.update(kwargs)."""
    if isinstance(node, ast.Dict):
        return any(key is None and _is(value, rest) for key, value in zip(node.keys, node.values, strict=True))
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr == "update":
        return any(_is(a, rest) for a in node.args)
    return _is(node.func, "dict") and any(k.arg is None and _is(k.value, rest) for k in node.keywords)


def _read_of_groups(kind: Any) -> set[str]:
    """What a class and its bases look up in the settings of a group; not what their own defaults hold."""
    trees = [tree for one in kind.__mro__ if _is_of_library(one) and (tree := _source(one)) is not None]
    read = {key for tree in trees for key in _keys_read(tree, lambda name: name.endswith("group"))}
    constructor = _source(kind.__init__)
    own = {
        key.value
        for node in ast.walk(constructor or ast.Module([], []))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    return read - own - OURS - {"step"}


def _keys_read(tree: ast.AST, wanted: Any) -> Iterator[str]:
    """The constant keys that are looked up in the dictionaries whose names are wanted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _named(node.value, wanted) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _named(node.func.value, wanted):
            first = node.args[0] if node.func.attr in _READS and node.args else None
            if isinstance(first, ast.Constant):
                yield str(first.value)


def _named(node: ast.AST, wanted: Any) -> bool:
    return isinstance(node, ast.Name) and wanted(node.id)


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _base(kind: Any) -> type[Any]:
    """The next class whose constructor `super().__init__` is."""
    maker = next(one for one in kind.__mro__ if "__init__" in vars(one))
    after = kind.__mro__[kind.__mro__.index(maker) + 1 :]
    return next(one for one in after if "__init__" in vars(one))


def _is_of_library(kind: Any) -> bool:
    return kind.__module__.partition(".")[0] not in ("torch", "builtins", "abc", "typing")


@cache
def _source(thing: Any) -> ast.Module | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):
        return None
