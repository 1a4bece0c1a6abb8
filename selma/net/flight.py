"""Several tasks in flight at once, each in a thread: results as they come, none lost to another's failure."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # tasks taken per thread: while the caller is busy with a result, the threads have a next one
BLINK = 0.5  # seconds. A Ctrl-C just before a wait, or taken by another thread, does not end the wait; its end does.


class Flight(Generic[T, R]):
    """Iterates over (number, result) of `work` on every task, in the order in which they are done.

    Tasks are taken in the calling thread, only shortly before they start, so each may be large. After a failure, of a
    task or of taking one, those in flight finish and are yielded, no others start, and the first failure is raised.
    Ctrl-C and an iteration that is given up do not wait.
    """

    def __init__(self, work: Callable[[T], R], tasks: Iterable[T], concurrency: int) -> None:
        """`work` must be safe to call from `concurrency` (at least 1) threads at once."""
        self._work, self._tasks, self._concurrency = work, iter(tasks), concurrency
        self._todo: queue.SimpleQueue[tuple[int, T] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, R | None, BaseException | None]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def stop(self, failure: BaseException) -> None:
        """Start no others; `failure` is raised at the end, unless there was one before."""
        self._failure = self._failure or failure
        self._stop.set()

    def __iter__(self) -> Iterator[tuple[int, R]]:
        # Not a ThreadPoolExecutor: its threads keep the process alive until the slowest server has answered.
        taken = waiting = threads = 0
        more = True
        try:
            while True:
                while more and not self._stop.is_set() and waiting < AHEAD * self._concurrency:
                    try:
                        task = next(self._tasks)
                    except StopIteration:
                        more = False
                        break
                    except Exception as error:
                        self.stop(error)
                        break
                    self._todo.put((taken, task))
                    taken, waiting = taken + 1, waiting + 1
                    if threads < self._concurrency:
                        threading.Thread(target=self._fly, daemon=True).start()
                        threads += 1
                if not waiting:
                    break
                try:
                    number, result, failure = self._done.get(timeout=BLINK)
                except queue.Empty:
                    continue
                waiting -= 1
                if failure is None:
                    yield number, result
                elif not isinstance(failure, _NotStarted):
                    self.stop(failure)
        finally:
            self._stop.set()
            for _ in range(threads):
                self._todo.put(None)
        if self._failure is not None:
            raise self._failure

    def _fly(self) -> None:
        while (task := self._todo.get()) is not None:
            number, given = task
            if self._stop.is_set():
                self._done.put((number, None, _NotStarted()))
                continue
            try:
                self._done.put((number, self._work(given), None))
            except BaseException as error:
                self._stop.set()
                self._done.put((number, None, error))


class _NotStarted(Exception):
    """A task that was taken and did not start, because another failed."""
