"""How progress is shown: a bar on a terminal; elsewhere, as in a log of CI, plain lines that stay true."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol

EVERY = 30.0  # seconds between two lines; work that takes less has none


class Shown(Protocol):
    """What is told how many more are done."""

    def update(self, n: float) -> object: ...


def show(
    total: int | None, label: str, unit: str = "", done: int = 0, parts: bool = False
) -> AbstractContextManager[Shown]:
    """Progress of work of `total` items (None: unknown) on stderr, `done` of which were there before; with `parts` an
    item is reported in parts."""
    if not sys.stderr.isatty():
        return Lines(total, label, unit, done)
    from tqdm import tqdm

    options = {"unit": f" {unit}"} if unit else {}
    if parts:
        options["bar_format"] = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
    return tqdm(
        total=total,
        desc=label,
        initial=done,
        file=sys.stderr,
        mininterval=0.2,
        maxinterval=10.0,
        dynamic_ncols=True,
        leave=False,
        **options,
    )


class Lines:
    """A line at most every half minute: "expert count: 210 of 500 steps, 0:00:31 so far, 0:00:43 to go"."""

    def __init__(self, total: int | None, label: str, unit: str, done: int) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.before = self.done = float(done)
        self.began = self.said = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: float) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.said >= EVERY:
            self.said = now
            sys.stderr.write(self._line(now - self.began))  # at once: other threads write there, too
            sys.stderr.flush()

    def _line(self, seconds: float) -> str:
        whole, new = int(self.done + 1e-6), self.done - self.before  # of parts that add up to a whole
        words = [f"{self.label}: {whole}", *([f"of {self.total}"] if self.total else []), self.unit]
        line = f"{' '.join(filter(None, words))}, {_clock(seconds)} so far"
        if self.total and self.total > self.done and new > 0:
            line += f", {_clock((self.total - self.done) / new * seconds)} to go"
        return f"{line}\n"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
