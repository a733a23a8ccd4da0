"""The bootstrap: what it installs when, which PyTorch it chooses, how it fails and how it hands over."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "launch.py"
CU126, CU130 = "https://download.pytorch.org/whl/cu126", "https://download.pytorch.org/whl/cu130"


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A fresh copy of the module, on a machine without an NVIDIA card."""
    spec = importlib.util.spec_from_file_location("launch_under_test", SOURCE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "nvidia_smi_places", list)
    monkeypatch.delenv("IMMISCIBLE_TORCH_INDEX", raising=False)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository in a folder with spaces in its name."""
    folder = tmp_path / "my own trainer"
    folder.mkdir()
    (folder / "requirements.txt").write_text("torch==2.13.0\nrich==15.0.0\n")
    (folder / "requirements-alone.txt").write_text("# nothing\n")
    return folder


class Machine:
    """Stands in for subprocess.call: records every command, makes the files a command would make, fails on request."""

    def __init__(self, venv: Any) -> None:
        self.venv, self.commands, self.environments, self.codes = venv, [], [], {}

    def __call__(self, command: list[str], env: dict[str, str]) -> int:
        kind = (
            "venv"
            if "venv" in command
            else "load"
            if "-c" in command
            else "torch"
            if "--index-url" in command
            else "alone"
            if "--no-deps" in command
            else "pip"
        )
        self.commands.append((kind, command))
        self.environments.append(env)
        if kind == "venv":
            self.venv.python().parent.mkdir(parents=True)
            self.venv.python().touch()
        code = self.codes.get(kind, 0)
        if isinstance(code, BaseException):
            raise code
        return code

    def kinds(self) -> list[str]:
        """What was run since the last call."""
        kinds = [kind for kind, _ in self.commands]
        self.commands.clear()
        return kinds


@pytest.fixture
def machine(launch: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine(launch.Venv(root))
    monkeypatch.setattr(launch.subprocess, "call", fake)
    return fake


def test_installs_once_and_again_when_the_requirements_change(launch: ModuleType, machine: Machine) -> None:
    venv = machine.venv
    launch.prepare(venv)
    assert machine.kinds() == ["venv", "pip", "alone", "load"]
    launch.prepare(venv)
    assert machine.kinds() == []
    venv.requirements.write_text("torch==2.13.0\nrich==15.0.1\n")
    launch.prepare(venv)
    assert machine.kinds() == ["pip", "alone", "load"]
    launch.prepare(venv)
    assert machine.kinds() == []
    venv.alone.write_text("# more\n")
    launch.prepare(venv)
    assert machine.kinds() == ["pip", "alone", "load"]


def test_what_comes_without_its_dependencies_comes_last(launch: ModuleType, machine: Machine) -> None:
    launch.prepare(machine.venv)
    commands = dict(machine.commands)
    assert commands["alone"][-3:] == ["--no-deps", "-r", str(machine.venv.alone)]
    assert commands["pip"][-2:] == ["-r", str(machine.venv.requirements)]
    assert "--no-deps" not in commands["pip"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), 1])
def test_an_interrupted_installation_is_taken_up_again(
    launch: ModuleType, machine: Machine, interruption: BaseException | int
) -> None:
    machine.codes["pip"] = interruption
    with pytest.raises((KeyboardInterrupt, launch.StepError)):
        launch.prepare(machine.venv)
    assert not machine.venv.ready("")
    machine.codes.clear()
    machine.kinds()
    launch.prepare(machine.venv)
    assert machine.kinds() == ["pip", "alone", "load"], "the half-filled .venv is filled, not made again"


def test_a_change_that_fails_half_way_does_not_count_as_the_old_state(launch: ModuleType, machine: Machine) -> None:
    launch.prepare(machine.venv)
    old = machine.venv.requirements.read_bytes()
    machine.venv.requirements.write_text("torch==2.14.0\n")
    machine.codes["pip"] = 1
    with pytest.raises(launch.StepError):
        launch.prepare(machine.venv)
    machine.venv.requirements.write_bytes(old)
    machine.codes.clear()
    machine.kinds()
    launch.prepare(machine.venv)
    assert machine.kinds() == ["pip", "alone", "load"]


def test_a_half_made_or_broken_venv_is_made_again(launch: ModuleType, machine: Machine) -> None:
    machine.codes["venv"] = 1
    with pytest.raises(launch.StepError):
        launch.prepare(machine.venv)
    machine.codes.clear()
    machine.kinds()
    launch.prepare(machine.venv)
    assert machine.kinds() == ["venv", "pip", "alone", "load"]

    machine.venv.python().unlink()  # the Python it was made from has been uninstalled
    launch.prepare(machine.venv)
    assert machine.kinds() == ["venv", "pip", "alone", "load"]


def test_another_python_or_another_torch_makes_the_venv_again(launch: ModuleType, machine: Machine) -> None:
    launch.prepare(machine.venv, CU126)
    assert machine.kinds() == ["venv", "torch", "pip", "alone", "load"]
    launch.prepare(machine.venv)
    assert machine.kinds() == [], "a build that was chosen once stays, without being named again"
    launch.prepare(machine.venv, CU130)
    assert machine.kinds() == ["venv", "torch", "pip", "alone", "load"]
    state = json.loads(machine.venv.state_file.read_text())
    machine.venv.state_file.write_text(json.dumps(state | {"python": "3.1"}))
    launch.prepare(machine.venv)
    assert machine.kinds()[0] == "venv"


def test_a_working_venv_made_by_hand_is_kept(
    launch: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keepsake = machine.venv.folder / "keepsake"
    keepsake.parent.mkdir()
    keepsake.touch()
    monkeypatch.setattr(launch, "works", lambda python: True)
    launch.prepare(machine.venv)
    assert machine.kinds() == ["pip", "alone", "load"]
    assert keepsake.exists()


def test_works_asks_the_python_itself(launch: ModuleType, tmp_path: Path) -> None:
    assert launch.works(Path(sys.executable))
    assert not launch.works(tmp_path / "no-such-python")
    launch.VERSION = "3.1"
    assert not launch.works(Path(sys.executable))


def test_nothing_installs_outside_the_venv(
    launch: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    launch.prepare(machine.venv, CU130)
    inside = [command[0] == str(machine.venv.python()) for kind, command in machine.commands if kind != "venv"]
    assert inside == [True] * 4
    for env in machine.environments:
        assert "/elsewhere" not in env.values()
        assert env["PIP_USER"] == "0"
        assert env["HTTPS_PROXY"] == "http://proxy"


def test_torch_comes_first_and_pinned_when_it_has_its_own_index(launch: ModuleType, machine: Machine) -> None:
    launch.prepare(machine.venv, CU130)
    kind, command = machine.commands[1]
    assert kind == "torch"
    assert command[-3:] == ["torch==2.13.0", "--index-url", CU130]


def test_where_python_is_in_a_venv(launch: ModuleType, root: Path) -> None:
    venv = launch.Venv(root)
    assert venv.python("posix") == root / ".venv" / "bin" / "python"
    assert venv.python("nt") == root / ".venv" / "Scripts" / "python.exe"


# Which PyTorch

TURING, PASCAL, BLACKWELL = 75, 61, 120


@pytest.mark.parametrize(
    ("system", "machine", "card", "index"),
    [
        ("Linux", "x86_64", None, ""),
        ("Windows", "AMD64", None, ""),
        ("Darwin", "arm64", None, ""),
        ("Linux", "x86_64", (TURING, 580), ""),
        ("Linux", "x86_64", (TURING, 579), CU126),
        ("Linux", "x86_64", (PASCAL, 580), CU126),
        ("Linux", "aarch64", (90, 580), CU130),
        ("Windows", "AMD64", (TURING, 580), CU130),
        ("Windows", "AMD64", (0, 590), CU130),
        ("Windows", "AMD64", (TURING, 560), CU126),
        ("Windows", "AMD64", (0, 472), CU126),
        ("Windows", "AMD64", (PASCAL, 581), CU126),
        ("Windows", "AMD64", (BLACKWELL, 572), CU130),
    ],
)
def test_torch_index(launch: ModuleType, system: str, machine: str, card: tuple[int, int] | None, index: str) -> None:
    assert launch.torch_index(launch.Card(*card) if card else None, system, machine) == index


@pytest.mark.parametrize(
    ("answers", "card"),
    [
        ({"driver_version,compute_cap": "580.65.06, 8.9\n"}, (89, 580)),
        ({"driver_version,compute_cap": "581.15, 12.0\r\n"}, (120, 581)),
        ({"driver_version,compute_cap": "560.94, 6.1\n560.94, 8.6\n"}, (86, 560)),
        ({"driver_version": "470.82.01\n"}, (0, 470)),  # too old to know compute_cap
        ({"driver_version,compute_cap": "572.16, [N/A]\n"}, (0, 572)),
        ({"driver_version,compute_cap": "No devices were found\n"}, None),
        ({}, None),
    ],
)
def test_card_from_nvidia_smi(
    launch: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, str],
    card: tuple[int, int] | None,
) -> None:
    def nvidia_smi(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        fields = command[1].removeprefix("--query-gpu=")
        return subprocess.CompletedProcess(command, 0 if fields in answers else 2, answers.get(fields, "not valid"))

    monkeypatch.setattr(launch, "nvidia_smi_places", lambda: ["nvidia-smi"])
    monkeypatch.setattr(launch.subprocess, "run", nvidia_smi)
    assert launch.find_card() == card


def test_a_nvidia_smi_that_cannot_run_is_no_card(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "nvidia_smi_places", lambda: ["/no/such/nvidia-smi"])
    assert launch.find_card() is None


def test_nvidia_smi_is_found_in_windows_own_folder(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))
    (tmp_path / "System32").mkdir()
    program = tmp_path / "System32" / "nvidia-smi.exe"
    assert str(program) not in launch.nvidia_smi_places()
    program.touch()
    assert str(program) in launch.nvidia_smi_places()


def test_a_new_venv_on_windows_with_a_card_gets_cuda(
    launch: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "find_card", lambda: launch.Card(89, 581))
    monkeypatch.setattr(launch.platform, "system", lambda: "Windows")
    launch.prepare(machine.venv)
    assert next(c for kind, c in machine.commands if kind == "torch")[-1] == CU130
    assert "NVIDIA card (driver 581)" in capsys.readouterr().out


@pytest.mark.parametrize(("card", "warns"), [((120, 572), True), ((89, 520), True), ((89, 560), False)])
def test_a_driver_that_no_build_fits_is_said(
    launch: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    card: tuple[int, int],
    warns: bool,
) -> None:
    monkeypatch.setattr(launch, "find_card", lambda: launch.Card(*card))
    launch.choose_torch()
    assert ("update the driver" in capsys.readouterr().out) == warns


@pytest.mark.parametrize(
    ("value", "index"),
    [("cu126", CU126), ("https://mirror.example/torch", "https://mirror.example/torch"), (" ", ""), ("", "")],
)
def test_the_environment_variable_names_a_build_or_an_index(
    launch: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str, index: str
) -> None:
    monkeypatch.setenv("IMMISCIBLE_TORCH_INDEX", value)
    assert launch.main(["setup"], machine.venv.root) == 0
    assert machine.venv.state()["torch"] == index


# Failures


def test_a_failing_pip_names_the_step_the_reason_and_what_to_try(
    launch: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.codes["pip"] = 23
    monkeypatch.setattr(launch.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**8))
    assert launch.main(["demo"], machine.venv.root) == 1
    message = capsys.readouterr().err
    assert "installing requirements.txt failed" in message
    assert "Why: exit code 23" in message
    assert "0.1 GB are free" in message
    assert "network" in message
    assert "Traceback" not in message


def test_a_python_without_venv_names_the_debian_package(
    launch: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.codes["venv"] = 1
    assert launch.main(["setup"], machine.venv.root) == 1
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in capsys.readouterr().err


def test_a_command_that_cannot_start(launch: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.codes["load"] = PermissionError("not executable")
    assert launch.main(["setup"], machine.venv.root) == 1
    assert "loading PyTorch failed" in capsys.readouterr().err


def test_a_missing_requirements_file_is_a_message(
    launch: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.venv.requirements.unlink()
    assert launch.main(["demo"], machine.venv.root) == 1
    assert "requirements.txt" in capsys.readouterr().err


def test_ctrl_c_during_the_set_up(launch: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.codes["pip"] = KeyboardInterrupt()
    assert launch.main(["demo"], machine.venv.root) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("newest", "system", "processor", "word"),
    [((3, 10), "Linux", "x86_64", "older Python"), ((3, 99), "Darwin", "x86_64", "Intel")],
)
def test_advice_fits_the_machine(
    launch: ModuleType,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    newest: tuple[int, int],
    system: str,
    processor: str,
    word: str,
) -> None:
    healthy = launch.pip_advice(launch.Venv(root))
    monkeypatch.setattr(launch, "NEWEST", newest)
    monkeypatch.setattr(launch.platform, "system", lambda: system)
    monkeypatch.setattr(launch.platform, "machine", lambda: processor)
    (extra,) = set(launch.pip_advice(launch.Venv(root))) - set(healthy)
    assert word in extra


def test_an_old_python_gets_a_message(launch: ModuleType) -> None:
    for old in [(3, 6, 15), (3, 8, 0), (3, 10, 13)]:
        assert f"this is Python {old[0]}.{old[1]} " in launch.python_problem(old, "python")
    assert launch.python_problem((3, 11, 0), "python") == ""
    assert launch.python_problem((4, 0, 0), "python") == ""


def test_an_old_python_can_read_the_file_up_to_its_message() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 6))
    check = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.If))
    for node in tree.body[:check]:
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__", "Python 3.6 knows no 'annotations'"
        if isinstance(node, ast.FunctionDef):
            hints = [a.annotation for a in node.args.args] + [node.returns]
            assert all(isinstance(hint, ast.Name) for hint in hints), "tuple[int, ...] fails before Python 3.9"


def test_help_installs_nothing(launch: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--help"], machine.venv.root) == 0
    assert launch.main([], machine.venv.root) == 2
    assert machine.kinds() == []
    assert "python launch.py demo" in capsys.readouterr().out


# The lock


def test_two_starts_install_once(launch: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    installs = []

    def slow_install(venv: Any, torch: str) -> None:
        installs.append(torch)
        time.sleep(0.3)

    monkeypatch.setattr(launch, "install", slow_install)
    starts = [threading.Thread(target=launch.prepare, args=(machine.venv,)) for _ in range(2)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert len(installs) == 1
    assert machine.kinds() == ["venv"]


def test_the_lock_of_a_dead_process_is_free(launch: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / ".venv.lock"
    script = f"import runpy, os; m = runpy.run_path({str(SOURCE)!r}); f = open({str(lock)!r}, 'ab'); "
    held = subprocess.run([sys.executable, "-c", script + "print(m['try_lock'](f)); os._exit(9)"], capture_output=True)
    assert held.returncode == 9
    with launch.only_one(lock), lock.open("ab") as second:
        assert not launch.try_lock(second), "while it is held, nobody else gets it"


# Handing over


@pytest.fixture
def handed(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Receives what would replace this process."""
    calls: list[Any] = []
    monkeypatch.setattr(launch.os, "execve", lambda path, argv, env: calls.append((argv, env, Path.cwd())))
    return calls


def test_commands_run_in_the_users_folder(
    launch: ModuleType, root: Path, handed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "mine")
    venv = launch.Venv(root)
    launch.hand_over(venv, ["train", "my config.toml", "--set", "run.seed=1"])
    ((argv, env, folder),) = handed
    assert argv == [str(venv.python()), "-P", "-m", "trainer", "train", "my config.toml", "--set", "run.seed=1"]
    assert env["PYTHONPATH"] == os.pathsep.join([str(root), "mine"])
    assert folder == tmp_path


def test_tests_run_in_the_repository_on_one_thread(
    launch: ModuleType, root: Path, handed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv = launch.Venv(root)
    launch.hand_over(venv, ["test", "-k", "foo"])
    ((argv, env, folder),) = handed
    assert argv == [str(venv.python()), "-P", "-m", "pytest", "-k", "foo"]
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["PYTHONPATH"] == str(root)
    assert folder == root
    launch.hand_over(venv, ["test"])
    argv, _, _ = handed[-1]
    assert argv[3:5] == ["pytest", "-n"] and 1 <= int(argv[5]) <= 4 and argv[6:8] == ["--dist", "loadfile"]


def test_windows_waits_for_the_child(
    launch: ModuleType, root: Path, handed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "run_child", lambda command, env: 7)
    venv = launch.Venv(root)
    with monkeypatch.context() as patch:
        patch.setattr(launch.os, "name", "nt")
        with pytest.raises(SystemExit) as end:
            launch.hand_over(venv, ["demo"])
    assert end.value.code == 7
    assert handed == []


def test_ctrl_c_is_left_to_the_child(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            waits.append(timeout)
            if len(waits) == 1:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(launch.subprocess, "Popen", Interrupted)
    assert launch.run_child([sys.executable, "-c", "raise SystemExit(5)"], dict(os.environ)) == 5
    assert len(waits) >= 2


# The real thing


def test_from_nothing_to_a_running_trainer(root: Path, tmp_path: Path) -> None:
    shutil.copy(SOURCE, root / "launch.py")
    (root / "requirements.txt").write_text("# nothing\n")
    (root / "trainer").mkdir()
    (root / "trainer" / "__init__.py").touch()
    stub = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), sys.prefix])); sys.exit(3)"
    (root / "trainer" / "__main__.py").write_text(stub)
    elsewhere = tmp_path / "another folder"
    (elsewhere / "trainer").mkdir(parents=True)  # the user's own folder of that name, which must not be taken for ours
    (elsewhere / "trainer" / "__init__.py").touch()
    (elsewhere / "trainer" / "__main__.py").write_text("raise SystemExit('the wrong trainer')")

    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "IMMISCIBLE_TORCH_INDEX")}

    def start() -> tuple[Any, str, float]:
        began = time.perf_counter()
        command = [sys.executable, str(root / "launch.py"), "train", "my photos.toml"]
        done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 3, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stdout, time.perf_counter() - began

    result, output, first = start()
    assert result == [["train", "my photos.toml"], str(elsewhere), str(root / ".venv")]
    assert "making" in output
    assert "installing requirements.txt" in output
    again, output, second = start()
    assert again == result
    assert "launch.py:" not in output, "a second start has nothing to say"
    assert second < first
