"""Asking an LLM for lists of prompts: requests, replies, providers, and the parsing of what comes back.

A provider answers requests; which one is `llm.provider` in params.yaml. A new one is a line in PROVIDERS.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from selma import records
from selma.errors import UserError

FinishReason = Literal["stop", "length"]  # "length": the reply was cut off


@dataclass(frozen=True)
class Request:
    """One question to the LLM: `index` counts requests from 0, `n` is how many prompts it asks for."""

    index: int
    text: str
    seed: int
    n: int


@dataclass(frozen=True)
class Reply:
    """The LLM's raw answer to the request of the same index."""

    index: int
    text: str
    finish_reason: FinishReason


class Provider(Protocol):
    """Something that answers requests, several at a time."""

    def complete(
        self, requests: Sequence[Request], done: Callable[[Reply], None] | None = None
    ) -> list[Reply]:
        """Replies in request order; `done` gets each one as it comes, in any order, in the calling thread."""
        ...


class ThreadedProvider:
    """A provider from a function that answers one request: (text, seed) -> (reply, finish reason)."""

    def __init__(self, answer: Callable[[str, int], tuple[str, FinishReason]], concurrency: int) -> None:
        """`answer` must be safe to call from `concurrency` (at least 1) threads at once."""
        self._answer = answer
        self._concurrency = concurrency

    def complete(
        self, requests: Sequence[Request], done: Callable[[Reply], None] | None = None
    ) -> list[Reply]:
        """Replies in request order, whatever the order they came in; a failure cancels what is waiting."""
        replies: dict[int, Reply] = {}
        with ThreadPoolExecutor(self._concurrency) as pool:
            futures = {pool.submit(self._answer, request.text, request.seed): request for request in requests}
            try:
                for future in as_completed(futures):
                    reply = Reply(futures[future].index, *future.result())
                    replies[reply.index] = reply
                    if done is not None:
                        done(reply)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [replies[request.index] for request in requests]


class RecordedProvider:
    """A provider that writes down every raw reply as it comes, and never asks again what the file answers."""

    def __init__(self, provider: Provider, path: Path) -> None:
        """`path` is a JSON Lines file, perhaps of a run that was killed while it wrote a line."""
        self._provider = provider
        self._path = path
        self._rows: dict[int, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the line that was being written
                self._rows[row["index"]] = row
            records.write_jsonl(path, self._rows.values())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was asked and answered, in request order: index, seed, request, reply, finish_reason."""
        return [self._rows[index] for index in sorted(self._rows)]

    def complete(
        self, requests: Sequence[Request], done: Callable[[Reply], None] | None = None
    ) -> list[Reply]:
        """Replies in request order, those on file first; each new one is on disk before `done` gets it."""
        asked = {request.index: request for request in requests}
        known = [request for request in requests if self._knows(request)]
        for request in known if done else ():
            done(self._reply(request.index))

        with open(self._path, "a", encoding="utf-8", newline="\n") as file:

            def record(reply: Reply) -> None:
                request = asked[reply.index]
                row = {"index": request.index, "seed": request.seed, "request": request.text}
                row |= {"reply": reply.text, "finish_reason": reply.finish_reason}
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
                self._rows[reply.index] = row
                if done is not None:
                    done(reply)

            if missing := [request for request in requests if request not in known]:
                self._provider.complete(missing, record)
        return [self._reply(request.index) for request in requests]

    def _knows(self, request: Request) -> bool:
        row = self._rows.get(request.index)
        return row is not None and (row["seed"], row["request"]) == (request.seed, request.text)

    def _reply(self, index: int) -> Reply:
        row = self._rows[index]
        return Reply(index, row["reply"], row["finish_reason"])


def _shapes(concurrency: int) -> Provider:
    from selma.shapes.writer import Writer  # a provider's modules are loaded only where it is named

    return ThreadedProvider(Writer().reply, concurrency)


PROVIDERS: dict[str, Callable[[int], Provider]] = {"shapes": _shapes}


def load_provider(name: str, concurrency: int) -> Provider:
    """The provider of that name, `concurrency` requests in flight at once; UserError for an unknown name."""
    if name not in PROVIDERS:
        raise UserError(f"llm.provider is {name!r}; it must be one of: {', '.join(PROVIDERS)}")
    return PROVIDERS[name](concurrency)


# Parsing -----------------------------------------------------------------------------------------

# "12. ", "12) ", "- " and the like, perhaps in bold; not the 3.5 of "3.5 metres" or the 2. of "2.5".
_MARKER = re.compile(r"\s*(?:\*\*|__)?(?:\d{1,4}[.)](?!\d)|[-*•](?=\s|$))(?:\*\*|__)?\s*(?P<text>.*)")
# How lines begin that follow a list and do not go on with its last item.
_CHATTER = re.compile(
    r"let me know|feel free|i hope|hope (this|these)|would you like|do you want"
    r"|if you['\u2019 ](d|would|need|want)"
    r"|(these|those|the above) (are|prompts)|that['\u2019]s (all|it)|\(?note( that|:)|#|```|[-=_*]{3,}$",
    re.IGNORECASE,
)
_WRAPPED = re.compile(
    r'"([^"]*)"|`([^`]*)`|\*([^*]*)\*|\u201c([^\u201c\u201d]*)\u201d'
    # Single quotes, around apostrophes or not.
    r"|'((?:[^']|(?<=\w)'(?=\w))*)'|\u2018((?:[^\u2018\u2019]|(?<=\w)\u2019(?=\w))*)\u2019"
)


def parse_list(text: str, finish_reason: FinishReason = "stop") -> list[str]:
    """The items of a numbered or bulleted list in an LLM's reply, in order, each on one line.

    Items are found by their markers, whatever the numbers say: gaps, restarts and repeats lose nothing.
    Wrapped lines are joined, quotes and bold stripped, and what stands before the list, after it, or after a
    blank line within it is ignored. With finish_reason "length" the last item is dropped: it may be cut
    off anywhere. An item without a letter or digit is none.
    """
    items: list[list[str]] = []
    inside = False  # whether a line without a marker goes on with the item before it
    for line in text.splitlines():
        if marked := _MARKER.match(line):
            items.append([marked["text"]])
            inside = True
        elif not line.strip() or _CHATTER.match(line.strip()):
            inside = False
        elif inside:
            items[-1].append(line)
    if finish_reason == "length":
        items = items[:-1]
    cleaned = (_clean(" ".join(lines)) for lines in items)
    return [item for item in cleaned if any(char.isalnum() for char in item)]


def _clean(item: str) -> str:
    """The item on one line, without what a writer wraps around it."""
    item = " ".join(item.replace("**", "").replace("__", "").split())
    while True:
        bare = item.strip().removesuffix(",")
        if wrapped := _WRAPPED.fullmatch(bare):
            bare = next(group for group in wrapped.groups() if group is not None)
        if bare == item:
            return item
        item = bare
