"""The whole source passes the linters, the type checker and the rules about who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("trainer", "plugins", "demo", "gpu_check", "studies", "ui")
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-logo', '--no-cache'])"

INTERFACES = {"protocols", "batch", "errors", "randomness"}
# What other trainers need to use a noise stage too: nothing but these and the interfaces.
NOISE_LIBRARIES = {"torch", "scipy", "numpy", "pydantic"}
# Reading and writing files safely is the same for every family, so these leaves are shared.
HELPERS = {
    "noise": set(),
    "objectives": set(),
    "models": {"files.tensor_file", "files.atomic"},
    "adapters": set(),
    "bases": {"files.tensor_file", "files.safetensors_header"},
}
# The formats of its files, and what the trainer offers to programs: reports, looks at data, who runs what.
UI_MAY_IMPORT = {
    "config",
    "journal",
    "reports",
    "registry",
    "errors",
    "batch",
    "files.atomic",
    "files.ordinary",
    "commands",
    "assembly.readiness",
    "assembly.subject",
    "data.captions",
    "data.pictures.files",
    "run.holder",
    "training.control",
    "training.timesteps",
}
OWN = (*PACKAGES, "tests")
# These load what a user names: a plugin's file, an optimizer's class.
IMPORT_BY_NAME = {"trainer/registry.py", "trainer/optim/optimizers.py"}


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


def imports_by_name(path: Path) -> list[str]:
    """Calls that import a module of ours, or one whose name only shows when they run."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and called in ("import_module", "__import__", "run_module", "find_spec"):
            name = node.args[0] if node.args else None
            foreign = isinstance(name, ast.Constant) and str(name.value).split(".")[0] not in OWN
            if not foreign and called != "find_spec":
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    return found


def test_no_module_of_ours_is_imported_by_its_name() -> None:
    """Tools and readers see import statements only; to start fast, they stand inside the function that needs them."""
    paths = [path for path in sources(*PACKAGES) if str(path.relative_to(ROOT)) not in IMPORT_BY_NAME]
    assert [line for path in paths for line in imports_by_name(path)] == []


@pytest.mark.parametrize(
    "line", ["importlib.import_module('trainer.run')", "__import__(name)", "import_module(f'plugins.{kind}')"]
)
def test_an_import_by_name_would_be_noticed(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.py").write_text(f"{line}\n")
    assert len(imports_by_name(tmp_path / "a.py")) == 1


def test_no_settings_are_changed_past_their_checks() -> None:
    """pydantic's copies take any value: trainer.config.schema.base.changed checks it."""
    paths = sources(*PACKAGES)
    assert [line for path in paths for line in unchecked_copies(path)] == []


def unchecked_copies(path: Path) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [
        f"{path.name}:{call.lineno} {ast.unparse(call)}"
        for call in calls
        if ast.unparse(call.func).endswith(".model_construct")
        or (ast.unparse(call.func).endswith(".model_copy") and any(k.arg in ("update", None) for k in call.keywords))
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [("a.b.model_copy(update={'k': 2})", 1), ("A.model_construct(k=2)", 1), ("a.model_copy(deep=True)", 0)],
)
def test_an_unchecked_copy_would_be_noticed(tmp_path: Path, line: str, found: int) -> None:
    (tmp_path / "a.py").write_text(f"{line}\n")
    assert len(unchecked_copies(tmp_path / "a.py")) == found


def test_packages_import_nothing_when_they_are_imported() -> None:
    """Else whoever imports one module of a package waits for all others."""
    assert [str(path) for path in sources(*PACKAGES) if path.name == "__init__.py" and list(imports(path))] == []


RING = """
[importlinter]
root_package = house
[importlinter:contract:rings]
name = rings
type = acyclic_siblings
ancestors =
    house
[importlinter:contract:floors]
name = floors
type = layers
containers =
    house
layers =
    upper
    lower
"""


@pytest.mark.parametrize(
    ("planted", "broken"), [("", 0), ("from house.upper import a\n", 2), ("def f():\n    import house.upper.a\n", 2)]
)
def test_a_ring_of_packages_would_be_noticed(tmp_path: Path, planted: str, broken: int) -> None:
    for name, content in (("upper", "from house.lower import b\n"), ("lower", "")):
        (tmp_path / "house" / name).mkdir(parents=True)
        (tmp_path / "house" / name / "__init__.py").write_text("")
        (tmp_path / "house" / name / ("a.py" if name == "upper" else "b.py")).write_text(content)
    (tmp_path / "house" / "__init__.py").write_text("")
    (tmp_path / "house" / "lower" / "b.py").write_text(planted)
    (tmp_path / ".importlinter").write_text(RING)
    done = subprocess.run([sys.executable, "-c", LINT_IMPORTS], cwd=tmp_path, capture_output=True, text=True)
    assert f"{broken} broken" in done.stdout, done.stdout + done.stderr


def test_the_ui_knows_files_and_public_functions_only() -> None:
    assert violations(sources("ui"), "trainer", UI_MAY_IMPORT) == []
    assert violations(sources("ui"), "plugins", set()) == []


def test_the_core_is_never_told_about_what_stands_on_it() -> None:
    for package in ("plugins", "demo", "gpu_check", "ui", "gradio"):
        paths = [
            path
            for path in sources("trainer")
            if path.name != "__main__.py" or package not in ("demo", "gpu_check", "ui")
        ]
        assert violations(paths, package, set()) == []


def test_the_core_names_no_plugin() -> None:
    """By name, that is as a string: docstrings and what is known of other trainers' files are free, and so is the word
    for small adapters altogether, which is a section of the config and a way to train."""
    plugins = {path.stem for kind in HELPERS for path in sources(f"plugins/{kind}") if not path.stem.startswith("_")}
    assert {"oversampling", "lora", "loha"} <= plugins
    plugins -= {"lora"}
    for path in sources("trainer"):
        if "foreign" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = [
            f"{path.relative_to(ROOT)}:{node.lineno} names {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in plugins
        ]
        assert named == []


# What the networks of families are called. The config's keys training.unet and training.text_encoder are words for
# "what draws" and "what reads", and "vae" is the one network that every family has.
PARTS = {"unet", "text_encoder", "text_encoder_2", "transformer", "text_conditioner", "prior"}


def names_of_parts(path: Path) -> list[str]:
    """Where a file names a part of some family, or looks into a network's config for what the family should answer."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in PARTS]
    asked = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n).endswith(".vae.config")]
    return [f"{path.name}:{node.lineno} {ast.unparse(node)}" for node in (*named, *asked)]


def test_the_core_names_no_part_of_a_family() -> None:
    paths = [path for path in sources("trainer") if "foreign" not in path.parts]
    assert [line for path in paths for line in names_of_parts(path)] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("part.startswith('text_encoder')", 1),
        ("family.parts['unet']", 1),
        ("family.vae.config.latent_channels", 1),
        ("config.training.unet", 0),
        ("key('The UNet.')", 0),
    ],
)
def test_a_part_that_is_named_would_be_noticed(tmp_path: Path, line: str, found: int) -> None:
    (tmp_path / "a.py").write_text(f"{line}\n")
    assert len(names_of_parts(tmp_path / "a.py")) == found


def test_the_core_asks_the_kind_of_adapter() -> None:
    """It compares the name of none: a new kind is a file of its own and nothing else."""
    compared = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for path in sources("trainer")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare) and "lora.method" in ast.unparse(node)
    ]
    assert compared == []


@pytest.mark.parametrize("path", [ROOT / "launch.py", *sources(*PACKAGES)], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_opens_by_saying_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no docstring at the top"
    assert docstring.splitlines()[0].endswith("."), "the first line is not a sentence"
