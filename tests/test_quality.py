"""The whole source passes the linters, the type checker and the rules about who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("trainer", "plugins", "demo", "ui")
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-logo', '--no-cache'])"

INTERFACES = {"protocols", "batch", "errors", "adapters.adapter_weights"}
# What other trainers need to use a noise stage too: nothing but these and the interfaces.
NOISE_LIBRARIES = {"torch", "scipy", "numpy", "pydantic"}
# Reading tensors and LoRA files safely is the same for every family, so these leaves are shared.
HELPERS = {
    "noise": set(),
    "objectives": set(),
    "models": {"lora_file", "adapters.lora_names", "files.tensor_file", "files.atomic"},
}
UI_MAY_IMPORT = {
    "config",
    "config_io",
    "config_keys",
    "registry",
    "run_dir",
    "events",
    "errors",
    "reports",
    "files.atomic",
}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["-m", "ruff", "check", "--no-cache", "."], id="ruff check"),
        pytest.param(["-m", "ruff", "format", "--check", "--no-cache", "."], id="ruff format"),
        pytest.param(["-m", "mypy"], id="mypy"),
        pytest.param(["-c", LINT_IMPORTS], id="import-linter"),
    ],
)
def test_tool_is_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, at any depth, with its line; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parent.parts
                module = ".".join([*package[: len(package) - node.level + 1], *filter(None, [module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def violations(paths: list[Path], package: str, allowed: set[str]) -> list[str]:
    """Imports of `package` that reach for anything but its allowed submodules."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in paths
        for line, module in imports(path)
        if module.split(".")[0] == package and not any(f"{module}.".startswith(f"{package}.{one}.") for one in allowed)
    ]


@pytest.mark.parametrize("kind", HELPERS)
def test_plugins_see_the_interfaces_only(kind: str) -> None:
    paths = sources(f"plugins/{kind}")
    assert paths
    assert violations(paths, "trainer", INTERFACES | HELPERS[kind]) == []


def test_what_plugins_see_are_leaves() -> None:
    """Else the rule above would let the whole core in by the back door."""
    shared = INTERFACES.union(*HELPERS.values())
    assert violations([ROOT / "trainer" / f"{name.replace('.', '/')}.py" for name in shared], "trainer", shared) == []


def test_noise_plugins_can_be_used_by_other_trainers() -> None:
    allowed = NOISE_LIBRARIES | {"trainer", "plugins"} | set(sys.stdlib_module_names)
    for path in sources("plugins/noise"):
        for line, module in imports(path):
            assert module.split(".")[0] in allowed, f"{path.relative_to(ROOT)}:{line} imports {module}"
            if module.startswith("plugins"):
                assert module.startswith("plugins.noise"), f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_the_ui_knows_the_file_formats_only() -> None:
    assert violations(sources("ui"), "trainer", UI_MAY_IMPORT) == []
    assert violations(sources("ui"), "plugins", set()) == []


def test_the_core_is_never_told_about_what_stands_on_it() -> None:
    for package in ("plugins", "demo", "ui", "gradio"):
        assert violations(sources("trainer"), package, set()) == []


def test_the_core_names_no_plugin() -> None:
    """By name, that is as a string: the names of other trainers' keys (`kohya=...`) and docstrings are free."""
    plugins = {path.stem for kind in HELPERS for path in sources(f"plugins/{kind}") if not path.stem.startswith("_")}
    assert "oversampling" in plugins
    for path in sources("trainer"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        aliases = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "kohya"]
        free = {id(part) for alias in aliases for part in ast.walk(alias)}
        named = [
            f"{path.relative_to(ROOT)}:{node.lineno} names {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in plugins and id(node) not in free
        ]
        assert named == []


@pytest.mark.parametrize("path", [ROOT / "launch.py", *sources(*PACKAGES)], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_opens_by_saying_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no docstring at the top"
    assert docstring.splitlines()[0].endswith("."), "the first line is not a sentence"
