"""What a person sees in the terminal: lines and progress with rate and ETA; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from trainer.files.line_file import LineFile
from trainer.journal.events import Error, Event, Notice, ResultSaved, SampleDrawn, Start, Step, Stop, Validated

Update = Callable[[int, str], None]  # (done, remark)
SPEED = 600.0  # seconds back from now whose steps tell the rate; a step may take minutes
MANY = 2000  # images that are read take seconds
PLAIN_INTERVAL = 10.0  # seconds between progress lines where there is no terminal


class Console:
    """Prints, and repeats every line in a log file once there is one. `quiet` prints nothing (ranks above 0)."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
        self._log: LineFile | None = None
        self.interrupt: Callable[[], None] = lambda: None  # called at every progress; may raise to end the work

    def log_to(self, path: Path) -> None:
        self._log = LineFile(path)

    def say(self, line: str) -> None:
        self._rich.print(line, markup=False)
        if self._log is not None:
            self._log.write(line)

    @contextmanager
    def progress(
        self, label: str, total: int, unit: str = "", start: int = 0, expected: float = 0.0
    ) -> Iterator[Update]:
        """Yields update(done, remark). Shows rate and ETA; the final state is also a line of the log.

        expected: seconds for each of the units, from which a terminal's first ETA is made; 0 = not known.
        """
        if not total:
            yield self._ignore
        elif self._rich.is_terminal:
            with self._bar() as bar:
                task: TaskID = bar.add_task(label, total=total, completed=start, remark="", expected=expected)

                def update(done: int, remark: str = "") -> None:
                    bar.update(task, completed=done, remark=remark)
                    self.interrupt()

                yield update
        else:
            yield self._plain(label, total, unit, start)

    @contextmanager
    def counting(self, label: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
        """Yields told(done, total), for work that says itself how much there is; what is soon done shows nothing."""
        with ExitStack() as shown:
            updates: list[Update] = []

            def told(done: int, total: int) -> None:
                if not updates:
                    many = total >= MANY
                    updates.append(shown.enter_context(self.progress(label, total if many else 0, unit)))
                updates[0](done, "")

            yield told

    def _ignore(self, done: int, remark: str = "") -> None:
        self.interrupt()

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Remaining(),
            TextColumn("{task.fields[remark]}"),
        )
        return Progress(*columns, console=self._rich, transient=False, speed_estimate_period=SPEED)

    def _plain(self, label: str, total: int, unit: str, start: int) -> Update:
        began = last = time.monotonic()

        def update(done: int, remark: str = "") -> None:
            nonlocal last
            self.interrupt()
            now = time.monotonic()
            if now - last < PLAIN_INTERVAL and done < total:
                return
            last = now
            rate = (done - start) / max(now - began, 1e-9)
            left = (total - done) / rate if rate else 0.0
            text = f"{label}: {done}/{total} {unit}".rstrip()
            self.say(f"{text}, {rate:.2f}/s, {clock(left)} left{', ' + remark if remark else ''}")

        return update


class Remaining(TimeRemainingColumn):
    """Before anything was measured, what is expected."""

    def render(self, task: Task) -> Text:
        each = task.fields["expected"]
        if task.speed is None and each and task.remaining:
            return Text(clock(each * task.remaining), style="progress.remaining")
        return super().render(task)


def clock(seconds: float) -> str:
    """75 -> 1:15; 3675 -> 1:01:15; 183_675 -> 2 days 3:01:15"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days:,} day{'s' if days > 1 else ''} {hours}:{minutes:02d}:{rest:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A sign of life on stderr until the block ends: it moves in a terminal, elsewhere it is a line."""
    console = RichConsole(stderr=True, highlight=False)
    if not console.is_terminal:
        console.print(f"{what} ...", markup=False)
        yield
        return
    with console.status(what):
        yield


class RunLines:
    """The sink that turns a run's events into lines; steps move the progress bar instead."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.update: Update | None = None

    def __call__(self, event: Event) -> None:
        say = self._console.say
        match event:
            case Start():
                verb = f"goes on after step {event.step}" if event.resumed else "starts"
                by = f"on {event.images} images" if event.images else "without images"
                say(
                    f"training {verb}: {event.steps} steps {by}, {event.trainable:,} trained weights, on {event.device}"
                )
            case Step():
                if self.update is not None:
                    self.update(event.step, f"loss {event.loss:.4f}, {event.images_per_second:.1f} images/s")
            case SampleDrawn():
                say(f"step {event.step}: drew {', '.join(event.files)}")
            case ResultSaved():
                say(f"step {event.step}: saved {event.file}")
            case Validated():
                say(f"step {event.step}: {event.message}")
            case Notice():
                say(event.message)
            case Stop():
                further = "" if event.reason == "done" else "; continue with --resume"
                say(f"{event.reason} at step {event.step} after {clock(event.seconds)}{further}")
            case Error():
                say(f"error at step {event.step}: {event.message}")
