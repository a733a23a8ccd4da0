"""The queue trains one config after the other, whatever becomes of each, and of the process that works it off."""

from __future__ import annotations

import tomllib

import pytest

from tests.ui.conftest import wait_for, write_config
from trainer.errors import UserError
from trainer.run.holder import holder_of
from ui.work import processes
from ui.work import queue as queues
from ui.work.queue import QueuedRun, Worker
from ui.workspace import Workspace


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests work the queue off themselves."""
    monkeypatch.setattr(queues, "work", lambda workspace: None)


def worker(place: Workspace) -> Worker:
    return Worker(place, poll=0.01)


def states(place: Workspace) -> list[tuple[str, str]]:
    return [(item.name, item.state) for item in queues.read(place).items]


def test_one_after_the_other_and_a_failure_does_not_stop_the_rest(place: Workspace) -> None:
    for name in ("one", "fail", "three"):
        queues.add(place, write_config(place, name))
    assert states(place) == [("one", "waiting"), ("fail", "waiting"), ("three", "waiting")]
    worker(place).run()
    assert states(place) == [("one", "done"), ("fail", "failed"), ("three", "done")]
    assert queues.read(place).items[1].message == "model.base: there is no such base"
    starts = [place.note("starts", {})[f"output/{name}"]["time"] for name in ("one", "fail", "three")]
    assert starts == sorted(starts)
    queues.clear(place)
    assert states(place) == []
    assert list((place.state / "queue").glob("*")) == []


def test_the_order_can_be_changed(place: Workspace) -> None:
    items = [queues.add(place, write_config(place, name)) for name in ("a", "b", "c")]
    queues.move(place, items[2].id, -2)
    queues.move(place, items[0].id, 1)
    queues.move(place, items[1].id, -99)
    assert [name for name, _ in states(place)] == ["b", "c", "a"]
    queues.remove(place, items[2].id)
    assert [name for name, _ in states(place)] == ["b", "a"]
    with pytest.raises(UserError, match="not in the queue"):
        queues.move(place, items[2].id, 1)


def test_a_queued_config_is_a_copy(place: Workspace) -> None:
    config = write_config(place, "one", steps=3)
    item = queues.add(place, config)
    config.write_text(config.read_text().replace("steps = 3", "steps = 4"))
    kept = tomllib.loads(queues.copy_of(place, item).read_text())
    assert kept["training"]["steps"] == 3
    assert kept["datasets"][0]["subsets"][0]["image_dir"] == str(place.root / "photos"), "paths no longer depend on it"


def test_the_same_run_waits_once_and_a_wrong_config_not_at_all(place: Workspace) -> None:
    queues.add(place, write_config(place, "one"))
    with pytest.raises(UserError, match=r"run\.name"):
        queues.add(place, write_config(place, "one"))
    wrong = place.root / "wrong.toml"
    wrong.write_text("[run]\nnme = 'x'\n")
    with pytest.raises(UserError, match="nme"):
        queues.add(place, wrong)


def test_a_paused_queue_starts_nothing(place: Workspace) -> None:
    queues.add(place, write_config(place, "one"))
    queues.pause(place, True)
    worker(place).run()
    assert states(place) == [("one", "waiting")]
    queues.pause(place, False)
    worker(place).run()
    assert states(place) == [("one", "done")]


def test_it_waits_for_a_training_that_somebody_started(place: Workspace) -> None:
    other = processes.start(place, write_config(place, "other", steps=100000))
    wait_for(lambda: holder_of(place.runs()[other]))
    queues.add(place, write_config(place, "one"))
    looks = []

    def stop_it(seconds: float) -> None:
        looks.append(states(place))
        if len(looks) == 3:
            processes.stop_now(place, other)

    Worker(place, wait=stop_it).run()
    assert looks[:3] == [[("one", "waiting")]] * 3
    assert states(place) == [("one", "done")]


def test_what_an_interrupted_queue_left_is_taken_up(place: Workspace) -> None:
    """The machine went down while the first trained."""
    first = queues.add(place, write_config(place, "one", steps=30))
    queues.add(place, write_config(place, "two"))
    run = processes.start(place, queues.copy_of(place, first))
    wait_for(lambda: holder_of(place.runs()[run]))
    wait_for(lambda: place.runs()[run].metrics.stat().st_size > 200)
    processes.stop_now(place, run)
    with queues.changed(place) as queue:
        queue.items[0].state, queue.items[0].run = "running", run
    worker(place).run()
    assert states(place) == [("one", "done"), ("two", "done")]
    assert queues.read(place).items[0].resume


def test_two_workers_do_not_meet(place: Workspace) -> None:
    item = queues.add(place, write_config(place, "one"))
    inner: list[object] = []

    def meanwhile(seconds: float) -> None:
        if not inner:
            inner.append(queues.working(place))
            Worker(place).run()  # ends at once
            inner.append(queues.read(place).item(item.id).state)

    processes.start(place, write_config(place, "other", steps=20))
    Worker(place, poll=0.01, wait=meanwhile).run()
    assert inner == [True, "waiting"]
    assert not queues.working(place)


def test_a_damaged_file_is_an_empty_queue(place: Workspace) -> None:
    queues.add(place, write_config(place, "one"))
    (place.state / "queue.json").write_text("{")
    assert queues.read(place).items == []
    assert QueuedRun.model_validate({"id": "x", "name": "y", "source": "z", "later": 1}).state == "waiting"
