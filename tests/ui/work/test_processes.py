"""Trainings are found again, answer, end and fail; whoever started them, and whatever became of that one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.ui.conftest import wait_for, write_config
from trainer.errors import UserError
from ui.work import processes
from ui.work.history import history
from ui.work.processes import Process
from ui.work.status import Status, status
from ui.workspace import Workspace


def now(place: Workspace, name: str) -> Status:
    return status(place, name, place.runs()[name])


def test_a_training_goes_through_its_states(place: Workspace) -> None:
    count = 500  # seconds long, so that a busy machine sees it on its way
    name = processes.start(place, write_config(place, "one", steps=count))
    assert name == "output/one"
    assert now(place, name).state in ("starting", "training")
    wait_for(lambda: now(place, name).state == "training")
    assert now(place, name).can == {"stop", "stop now", "pause", "save", "sample"}
    processes.ask(place, name, "pause")
    assert now(place, name).state == "paused"
    processes.ask(place, name, "go")
    processes.ask(place, name, "stop")
    wait_for(lambda: now(place, name).state == "stopped")
    assert now(place, name).can == {"resume"}
    reached = now(place, name).step
    assert 0 < reached < count
    processes.resume(place, name)
    wait_for(lambda: now(place, name).state == "finished", 60)
    steps = history(place.runs()[name]).curve("loss").steps.tolist()
    assert steps == list(range(1, count + 1)), "it went on where it was stopped"
    assert now(place, name).can == set()


def test_a_run_is_started_once(place: Workspace) -> None:
    config = write_config(place, "one", steps=100000)
    name = processes.start(place, config)
    with pytest.raises(UserError, match="going on already"):
        processes.start(place, config)
    wait_for(lambda: now(place, name).state == "training")
    processes.stop_now(place, name)
    wait_for(lambda: now(place, name).state == "ended")
    assert "start it again" in now(place, name).message  # nothing was saved
    assert now(place, name).can == set()


def test_a_training_that_cannot_start_tells_why(place: Workspace) -> None:
    name = processes.start(place, write_config(place, "fail"))
    wait_for(lambda: now(place, name).state == "failed")
    assert now(place, name).message == "model.base: there is no such base"


def test_a_wrong_config_is_not_started(place: Workspace) -> None:
    config = place.root / "x.toml"
    config.write_text("[training]\nsteps = 'many'\n")
    with pytest.raises(UserError, match=r"training\.steps"):
        processes.start(place, config)
    assert place.runs() == {}


def test_a_training_outlives_the_process_that_started_it(place: Workspace, tmp_path: Path) -> None:
    """The server is killed with its whole group, as a closed terminal does it."""
    config = write_config(place, "one", steps=100000)
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from ui.work import processes; from ui.workspace import Workspace\n"
        "processes.command = lambda *args: [sys.executable, sys.argv[2], *args]\n"
        "print(processes.start(Workspace(Path(sys.argv[3])), Path(sys.argv[4])), flush=True)\n"
        "time.sleep(100)\n"
    )
    from tests.ui.conftest import FAKE

    root = str(Path(__file__).resolve().parents[3])
    server = subprocess.Popen(
        [sys.executable, "-c", script, root, str(FAKE), str(tmp_path), str(config)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert server.stdout is not None
    name = server.stdout.readline().strip()
    wait_for(lambda: name in place.runs() and now(place, name).state == "training", 60)
    os.killpg(server.pid, signal.SIGHUP)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    before = now(place, name).step
    wait_for(lambda: now(place, name).step > before + 3)
    processes.ask(place, name, "stop")
    wait_for(lambda: now(place, name).state == "stopped")


def test_a_number_that_another_process_has_now_is_not_the_training(place: Workspace) -> None:
    mine = psutil.Process()
    assert Process(mine.pid, mine.create_time()).alive
    assert not Process(mine.pid, mine.create_time() - 100).alive
    run = place.root / "output" / "old"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps({"event": "start", "step": 0, "time": 1.0, "steps": 9}) + "\n")
    (run / "pid.json").write_text(json.dumps({"pid": mine.pid, "created": 12.0}))
    assert now(place, "output/old").state == "ended"


def test_only_known_words_reach_a_run_that_goes_on(place: Workspace) -> None:
    name = processes.start(place, write_config(place, "one", steps=100000))
    wait_for(lambda: now(place, name).state == "training")
    with pytest.raises(UserError, match="can be asked to stop, pause"):
        processes.ask(place, name, "rm -rf /")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no such run"):
        processes.ask(place, "../../etc", "stop")
    processes.stop_now(place, name)
    wait_for(lambda: now(place, name).state == "ended")
    with pytest.raises(UserError, match="not going on"):
        processes.ask(place, name, "stop")


def test_a_command_is_followed_and_ends_when_nobody_listens(place: Workspace) -> None:
    script = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)\n"
    lines = processes.stream([sys.executable, "-c", script], place.root)
    pid = int(next(lines))
    lines.close()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    failing = [sys.executable, "-c", "print('a'); print('b'); exit(3)"]
    assert list(processes.stream(failing, place.root))[-1] == "a\nb\n(ended with exit code 3)"


def test_a_history_of_a_hundred_thousand_lines_makes_a_small_page(place: Workspace) -> None:
    run = place.root / "output" / "long"
    run.mkdir(parents=True)
    lines = [json.dumps({"event": "start", "step": 0, "time": 0.0, "steps": 100_000, "device": "cpu"})]
    lines += [
        json.dumps(
            {
                "event": "step", "step": i, "time": i / 10, "loss": 1 / i, "lr": {"unet": 1e-4}, "grad_norm": 1.0,
                "images_per_second": 40.0, "epoch": i / 100, "loss_by_timestep": {"0-249": 0.1, "250-499": 0.2},
            }
        )
        for i in range(1, 100_000)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    from ui.views.run import curves_html

    told = history(place.runs()["output/long"])
    page = curves_html(told)
    assert told.step == 99_999
    assert len(page) < 120_000, "a chart holds hundreds of points, not all of them"
