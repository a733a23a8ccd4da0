"""Takes gpu-check to a machine with a card, Python and torch, but without a network and our other packages.

    python tests/gpu/bare.py pack [--python 3.12] [--folder F]    where there is a network: gathers the wheels, 14 MB
    python tests/gpu/bare.py run [--folder F] [ARGS]              there: installs them beside what is there, and starts
                                                                  gpu-check, which gets ARGS

Needs nothing but the standard library and pip.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "wheels-for-a-card"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# What such a machine lacks, in the versions of requirements.txt, and what these need.
WHEELS = (
    "diffusers==0.42.1", "peft==0.21.2", "bitsandbytes==0.50.2", "pytorch-optimizer==4.1.0", "pydantic==2.14.3",
    "pydantic_core==2.50.4", "typer==0.29.2", "tomlkit==0.14.0", "typing_extensions==4.16.0",
    "typing-inspection==0.4.5", "annotated-types==0.8.0", "importlib_metadata==10.2.0", "zipp==4.1.2",
    "requests==2.34.2", "urllib3==2.8.0", "idna==3.20", "certifi==2026.10.19.post1", "charset-normalizer==3.5.3",
)  # fmt: skip
KEPT = ("libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so")  # of a library for each version of CUDA


def pack(folder: Path, python: str) -> None:
    """python: that machine's, such as "3.12"."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [f"--platform={name}" for name in PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={python}", *chosen, f"--dest={folder}", *WHEELS]
    subprocess.run(command, check=True)
    for wheel in folder.glob("bitsandbytes-*.whl"):
        slim(wheel)
    print(f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB in {folder}")


def slim(wheel: Path) -> None:
    """Leaves one library for cards and one for processors in bitsandbytes' wheel, and their lines in its list."""
    small = wheel.with_suffix(".small")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if unneeded(name):
                continue
            content = old.read(name)
            if name.endswith("/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if not unneeded(line.partition(",")[0])).encode()
            new.writestr(name, content)
    small.replace(wheel)


def unneeded(name: str) -> bool:
    file = name.rpartition("/")[2]
    return file.startswith("libbitsandbytes_") and file not in KEPT


def run(folder: Path, arguments: list[str]) -> int:
    site = folder / "site"
    if not site.is_dir():
        wheels = sorted(map(str, folder.glob("*.whl")))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", f"--target={site}"]
        subprocess.run([*command, *wheels], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-m", "trainer", "gpu-check", *arguments], cwd=ROOT, env=environment)
    return done.returncode


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pack", "run"])
    parser.add_argument("--folder", type=lambda text: Path(text).resolve(), default=FOLDER, help="of the wheels")
    parser.add_argument("--python", default="3.12", help="that machine's version")
    given, others = parser.parse_known_args(arguments)
    if given.what == "run":
        return run(given.folder, others)
    if others:
        parser.error(f"pack knows no {' '.join(others)}")
    pack(given.folder, given.python)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
