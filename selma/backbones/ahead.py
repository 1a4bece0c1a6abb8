"""Work by several threads of Python, each with its share of PyTorch's own; PyTorch leaves Python's lock as it computes.

On a CPU, small models gain nothing from splitting each of their operations over the cores: the cores wait for each
other hundreds of times a step. Splitting the batch instead, they meet once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

import torch

T = TypeVar("T")


class Stopped(Exception):
    """Raised in a job to end it early; nobody waits for its result any more."""


@dataclass(frozen=True)
class Plan:
    """How a batch is computed: in parts of `size`, `workers` of them at once, with `threads` of PyTorch's each."""

    size: int
    workers: int
    threads: int


def plan(items: int, at_once: int, part: int, device: str) -> Plan:
    """Even parts for `items` items, of which at most `at_once` are in memory at once.

    On a CPU a part has at most `part` items, however many cores there are, so that results do not depend on them.
    Any other device takes `at_once` items, and one worker.
    """
    threads = torch.get_num_threads()
    size = max(1, min(at_once, part)) if device == "cpu" else at_once
    even = math.ceil(items / math.ceil(items / size))
    workers = max(1, min(threads, at_once // even, math.ceil(items / even))) if device == "cpu" else 1
    return Plan(even, workers, threads // workers)


@contextmanager
def pool_of(workers: int, threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads of Python, each with `threads` of PyTorch's own; PyTorch's number is restored after the body.

    In the body the caller has as many, too: PyTorch's threads wait for more work by spinning, on a core that the others
    need.
    """
    before = torch.get_num_threads()
    own = {} if threads == before else {"initializer": torch.set_num_threads, "initargs": (threads,)}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="computing", **own)
    torch.set_num_threads(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)


def ahead(jobs: Iterable[Callable[[Event], T]], workers: int, threads: int) -> Iterator[T]:
    """The results of `jobs` in order. `workers` run at once, each with `threads` threads of PyTorch's own, and as many
    results wait at most.

    A job gets an event that is set when its result is not wanted any more, because an earlier job failed or the caller
    stopped. An error of a job is raised in its turn.
    """
    stop = Event()
    waiting: deque[Future[T]] = deque()
    with pool_of(workers, threads) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(job, stop))
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            stop.set()
