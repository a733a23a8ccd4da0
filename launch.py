"""Makes .venv beside this file, installs the requirements when they changed, and runs the trainer in it.

    python launch.py demo             train a LoRA on real images with an embedded tiny model (CPU is enough)
    python launch.py test [ARGS]      run the whole test suite; ARGS go to pytest
    python launch.py setup            only install
    python launch.py ui               open the user interface
    python launch.py gpu-check        measure what this card does: speed, memory, which presets fit
    python launch.py train my.toml    train; every other command of the trainer is handed on the same way

Needs nothing but Python 3.11 or newer, never touches the global Python, and can be started from any folder.
PyTorch's build is chosen when .venv is made; the environment variable IMMISCIBLE_TORCH_INDEX overrides the choice:
cpu, cu126, cu130, another build's name, or the address of a package index.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

MINIMUM = (3, 11)


def python_problem(version: tuple, executable: str) -> str:
    """Why this Python can't be used, or "". What stands above its first call must run on Python 3.6."""
    if version[:2] >= MINIMUM:
        return ""
    return (
        f"launch.py: this is Python {version[0]}.{version[1]} ({executable}), but 3.11 or newer is needed.\n"
        f"  Try: start it with a newer one: 'python3.12 launch.py ...' (Windows: 'py -3.12 launch.py ...').\n"
        f"  Try: get one from python.org or your system's packages; several versions live side by side."
    )


if python_problem(sys.version_info, sys.executable):
    sys.exit(python_problem(sys.version_info, sys.executable))

ROOT = Path(__file__).resolve().parent
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
NEWEST = (3, 14)  # the newest Python that the pinned PyTorch has builds for
PYTORCH = "https://download.pytorch.org/whl/"  # its own package indices, one below this address for each build
OVERRIDE = "IMMISCIBLE_TORCH_INDEX"


class StepError(Exception):
    """A step of the set-up failed: which, why, and what to try."""

    def __init__(self, step: str, why: str, advice: Sequence[str]) -> None:
        lines = [f"launch.py: {step} failed.", f"Why: {why}", *(f"Try: {line}" for line in advice)]
        super().__init__("\n  ".join(lines))


def say(line: str) -> None:
    print(f"launch.py: {line}", flush=True)


class Card(NamedTuple):
    """An NVIDIA card: its compute capability times ten (0 = unknown) and its driver's major version."""

    capability: int
    driver: int


def nvidia_smi_places() -> list[str]:
    """Where the driver puts nvidia-smi: on the path, in Windows' own folder, or where WSL mounts it."""
    windows = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvidia-smi.exe"
    places = [shutil.which("nvidia-smi"), str(windows), "/usr/lib/wsl/lib/nvidia-smi"]
    return [place for place in places if place and Path(place).exists()]


def ask_nvidia_smi(fields: str) -> str:
    """One line of comma-separated answers for each card; "" where there is no card or no working driver."""
    for program in nvidia_smi_places():
        command = [program, f"--query-gpu={fields}", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            if answer.returncode == 0:
                return answer.stdout
    return ""


def find_card() -> Card | None:
    """The most capable NVIDIA card, None where there is none."""
    # Old drivers don't know compute_cap and refuse the whole question.
    lines = (ask_nvidia_smi("driver_version,compute_cap") or ask_nvidia_smi("driver_version")).splitlines()
    matches = [re.match(r"\s*(\d+)\.[\d.]+(?:\s*,\s*(\d+)\.(\d))?", line) for line in lines]
    return max((Card(int(m[2] + m[3]) if m[2] else 0, int(m[1])) for m in matches if m), default=None)


def torch_index(card: Card | None, system: str, machine: str) -> str:
    """The package index that has the right PyTorch; "" = the ordinary one.

    The ordinary index has a CUDA 13.0 build for Linux on x86-64, and CPU builds for everything else. CUDA 13 needs
    driver 580 and a Turing card (compute capability 7.5) or newer. The CUDA 12.6 build runs with older drivers and on
    older cards, but not on Blackwell (10.0 and up). Sources: PyTorch's release matrix, NVIDIA's CUDA release notes.
    """
    if card is None or system == "Darwin":
        return ""
    if 0 < card.capability < 75 or (card.driver < 580 and card.capability < 100):
        return PYTORCH + "cu126"
    return "" if (system, machine) == ("Linux", "x86_64") else PYTORCH + "cu130"


def choose_torch() -> str:
    """Looks for a card, says what was found and what follows, and returns the index to use."""
    card, system = find_card(), platform.system()
    index = torch_index(card, system, platform.machine())
    if card:
        say(f"found an NVIDIA card (driver {card.driver}), so PyTorch will be a CUDA build.")
        if card.driver < (580 if card.capability >= 100 else 525):
            say("this driver is too old for it: update the driver, or training will run on the CPU.")
    elif system != "Darwin":
        say("found no NVIDIA card, so training will run on the CPU.")
        if system == "Linux":
            say(f"PyTorch for Linux brings CUDA all the same; start with {OVERRIDE}=cpu to save 5 GB.")
    return index


class Venv:
    """`.venv` beside launch.py, and what is known of it.

    The file launch.json inside says for which Python and from which index it was made, and the hash of the installed
    requirements; the hash is written last, so that an interrupted installation is taken up again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.requirements = root / "requirements.txt"
        self.alone = root / "requirements-alone.txt"  # installed without their dependencies
        self.state_file = self.folder / "launch.json"

    def python(self, os_name: str = os.name) -> Path:
        return self.folder / ("Scripts/python.exe" if os_name == "nt" else "bin/python")

    def state(self) -> dict[str, Any]:
        """What launch.json says; empty where .venv is missing, broken, half-made or made by hand."""
        try:
            state = json.loads(self.state_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and self.python().exists() else {}

    def remember(self, torch: str, requirements: str) -> None:
        temporary = self.state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"python": VERSION, "torch": torch, "requirements": requirements}))
        temporary.replace(self.state_file)

    def wanted(self) -> str:
        """The hash of both files of requirements."""
        return hashlib.sha256(self.requirements.read_bytes() + self.alone.read_bytes()).hexdigest()

    def fits(self, override: str) -> bool:
        """Whether it is of this Python version and, if one was asked for, of this PyTorch build."""
        state = self.state()
        return state.get("python") == VERSION and override in ("", state.get("torch"))

    def ready(self, override: str) -> bool:
        return self.fits(override) and self.state().get("requirements") == self.wanted()


def prepare(venv: Venv, override: str = "") -> None:
    """Makes .venv fit this Python, the PyTorch build asked for ("" = any) and the requirements."""
    if venv.ready(override):
        return
    with only_one(venv.root / ".venv.lock"):
        if venv.ready(override):
            return  # another start did it while this one waited
        if venv.fits(override):
            torch = venv.state()["torch"]
        else:
            torch = override or choose_torch()
            if venv.state() or not works(venv.python()):
                make(venv)
        venv.remember(torch, requirements="")
        install(venv, torch)
        venv.remember(torch, requirements=venv.wanted())


def works(python: Path) -> bool:
    """Whether this is a Python of our version with pip, as in a .venv that someone made by hand."""
    question = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", question], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.strip() == VERSION


def make(venv: Venv) -> None:
    """Makes .venv, in place of an old one."""
    if venv.folder.exists():
        step = f"removing the old {venv.folder}"
        say(step)
        try:
            shutil.rmtree(venv.folder)
        except OSError as error:
            raise StepError(step, str(error), ["close the programs that run from it, then start again."]) from error
    # A Python inside the old .venv has just been removed; the one it was made from is still there.
    python = getattr(sys, "_base_executable", sys.executable)
    step = f"making {venv.folder} (Python {VERSION})"
    say(step)
    debian = f"on Debian and Ubuntu: sudo apt install python{VERSION}-venv (they ship Python without it)."
    run(step, [python, "-m", "venv", str(venv.folder)], [*disk_advice(venv), debian])


def install(venv: Venv, torch: str) -> None:
    """Runs pip, for PyTorch alone first where it has an index of its own; then sees whether PyTorch loads."""
    python = str(venv.python())
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    advice = pip_advice(venv)
    pins = re.findall(r"^torch==[^\s;#]+", venv.requirements.read_text(encoding="utf-8"), re.MULTILINE)
    if torch and pins:
        say(f"installing PyTorch from {torch}")
        builds = f"{', '.join(pins)} may have no build '{torch.rpartition('/')[2]}': set {OVERRIDE} to another one."
        run("installing PyTorch", [*pip, *pins, "--index-url", torch], [*advice, builds])
    say("installing requirements.txt (2 to 8 GB, once)")
    run("installing requirements.txt", [*pip, "-r", str(venv.requirements)], advice)
    run("installing requirements-alone.txt", [*pip, "--no-deps", "-r", str(venv.alone)], advice)
    if pins:
        say("loading PyTorch")
        device = "torch.cuda.get_device_name() if torch.cuda.is_available() else 'no CUDA card in use'"
        question = f"import torch; print(torch.__version__, {device})"
        windows = "on Windows: install Microsoft's Visual C++ Redistributable (x64), which PyTorch needs."
        run("loading PyTorch", [python, "-W", "ignore", "-c", question], [windows])


def run(step: str, command: list[str], advice: Sequence[str]) -> None:
    """Runs a command with its output shown; raises StepError when it fails."""
    # Nobody's settings may lead pip out of .venv; proxies and mirrors stay.
    unwanted = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX")
    env = {k: v for k, v in os.environ.items() if k not in unwanted} | {"PIP_USER": "0"}
    try:
        code = subprocess.call(command, env=env)
    except OSError as error:
        raise StepError(step, f"{command[0]} could not be started: {error}", advice) from error
    if code:
        raise StepError(step, f"exit code {code}; the lines above say more.", advice)


def disk_advice(venv: Venv) -> list[str]:
    free = shutil.disk_usage(venv.root).free / 1e9
    return [f"make room: {free:.1f} GB are free on this disk, up to 8 GB are needed."] if free < 9 else []


def pip_advice(venv: Venv) -> list[str]:
    """What to try when pip fails; what this machine itself gives away comes first."""
    advice = disk_advice(venv)
    if sys.version_info[:2] > NEWEST:
        advice.append(f"an older Python: this is {VERSION}, the pinned packages know up to {NEWEST[0]}.{NEWEST[1]}.")
    if (platform.system(), platform.machine()) == ("Darwin", "x86_64"):
        advice.append("another machine: PyTorch has no builds for Macs with Intel processors any more.")
    if sys.maxsize < 2**32:
        advice.append("a 64-bit Python: this one is 32-bit, and PyTorch has no builds for it.")
    network = "check the network (behind a proxy, set HTTPS_PROXY) and start again: finished downloads are kept."
    return [*advice, network, f"if it fails again, delete {venv.folder} and start again."]


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Holds a lock, so that two starts never install at once. The system lets go of it whenever the process ends."""
    with path.open("a+b") as file:
        if not try_lock(file):
            say("another start is setting up .venv; waiting for it")
            while not try_lock(file):
                time.sleep(0.5)
        yield


def try_lock(file: IO[bytes]) -> bool:
    """Whether the lock is ours now, or the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def hand_over(venv: Venv, arguments: Sequence[str]) -> NoReturn:
    """Becomes the trainer, in the user's current folder; for `test` becomes pytest, in the repository."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONHOME"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(venv.root), env.get("PYTHONPATH")]))
    if arguments[0] == "test":
        module = ["pytest", *(arguments[1:] or whole_suite())]
        env["OMP_NUM_THREADS"] = "1"  # two busy threads on two cores make tiny models tens of times slower
        os.chdir(venv.root)
    else:
        module = ["trainer", *arguments]
    # -P: a folder called "trainer" where the user happens to be must not be taken for ours.
    command = [str(venv.python()), "-P", "-m", *module]
    if os.name == "nt":  # there, exec gives the prompt back at once and loses the exit code
        sys.exit(run_child(command, env))
    os.execve(command[0], command, env)


def whole_suite() -> list[str]:
    """pytest's arguments for the whole suite: a process for each processor, up to four; a file stays in one of them."""
    return ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder"]


def run_child(command: Sequence[str], env: dict[str, str]) -> int:
    """Runs a child to its end and returns its exit code. Ctrl-C reaches the child too, which decides what it means."""
    with subprocess.Popen(command, env=env) as child:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return child.wait()


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Runs the command line and returns the exit code, unless another program takes over."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    venv, asked = Venv(root), os.environ.get(OVERRIDE, "").strip()
    try:
        prepare(venv, PYTORCH + asked if asked and "://" not in asked else asked)
        if arguments[0] != "setup":
            hand_over(venv, arguments)
        say("everything is installed. Next: python launch.py demo")
        return 0
    except StepError as error:
        print(f"\n{error}", file=sys.stderr)
    except OSError as error:
        advice = ["check that this folder is complete and can be written to, and that the disk is not full."]
        print(f"\n{StepError(f'setting up {venv.folder}', str(error), advice)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nlaunch.py: interrupted; the next start goes on from here.", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
