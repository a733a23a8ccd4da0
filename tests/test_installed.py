"""The installed package, built as a wheel and used from another folder: its command, and its noise stages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that has the wheel's content and nothing else of ours."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheel")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "wheel").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(site: Path, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python in another folder, where other things are called `trainer`, `plugins` and `ui`."""
    for name in ("trainer", "plugins", "ui"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text("raise RuntimeError('another project')\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_it_takes_one_name_among_the_installed_packages(site: Path) -> None:
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"immiscible_trainer"}
    (told,) = site.glob("*.dist-info")
    assert {"LICENSE", "NOTICE"} <= {path.name for path in told.rglob("*")}


def test_its_noise_works_in_another_trainer(site: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch\n"
        "from immiscible_trainer.noise.oversampling import nearest_of\n"
        "from immiscible_trainer.noise.assignment import assign\n"
        "x = torch.randn(3, 4, 8, 8)\n"
        "n = nearest_of(x, 64, generator=torch.Generator().manual_seed(0))\n"
        "assert (n - x).norm() < (torch.randn_like(x) - x).norm()\n"
        "assert assign(x, n).shape == x.shape\n"
        "assert not {'trainer', 'plugins'} & sys.modules.keys()\n"
    )
    done = run(site, code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["plugins"], 0, "oversampling"), (["check", "my.toml"], 2, "noise.oversampling: found -1")],
)
def test_its_command_is_the_trainer(site: Path, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    (tmp_path / "my.toml").write_text("[noise]\noversampling = -1\n")
    command = (
        f"import sys, immiscible_trainer; sys.argv = ['immiscible-trainer', *{arguments}]; immiscible_trainer.main()"
    )
    done = run(site, command, tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr


def test_its_requirements_are_the_pinned_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    for line in project["dependencies"]:
        name, least = re.match(r"([\w-]+)>=([\d.]+)", line).groups()  # type: ignore[union-attr]
        assert tuple(map(int, pins[name].split("."))) >= tuple(map(int, least.split("."))), line
