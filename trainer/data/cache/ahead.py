"""Runs work ahead of its use in threads, in order, and never more than a window of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int, window: int) -> Iterator[Result]:
    """`function` of each job, in the order of the jobs, with up to `window` of them begun before they are asked for.

    Threads, because Pillow and numpy let go of the interpreter while they work. Without workers nothing runs ahead.
    An exception is raised where its result would have come.
    """
    if workers < 1:
        yield from map(function, jobs)
        return
    remaining = iter(jobs)
    with ThreadPoolExecutor(workers, thread_name_prefix="data") as pool:
        begun: deque[Future[Result]] = deque(pool.submit(function, job) for job in islice(remaining, window))
        try:
            while begun:
                result = begun.popleft().result()
                begun.extend(pool.submit(function, job) for job in islice(remaining, 1))
                yield result
        finally:
            for future in begun:
                future.cancel()
