"""The store of raw replies: each is on disk before anyone parses it, and none is asked for twice.

A reply is found again by everything that determines it (server, model, sampling, text, seed, index), so one
file serves many runs: a killed one, one that wants more candidates, one under other params.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selma.prompts.provider import Provider, Reply, Request
from selma.runtime.work import home

FOLDER = ".llm"  # next to .work, which a stage empties when it ends; neither git nor DVC looks at it


def keep_replies(provider: Provider, name: str, work: Path) -> RecordedProvider:
    """`provider` with its replies kept in `.llm/<name>.jsonl` of the repository.

    Those of a provider that is code of this repository go into the stage's `work` folder instead: its next
    version may answer differently, and asking it again costs nothing.
    """
    if provider.identity is None:
        return RecordedProvider(provider, work / "replies.jsonl")
    return RecordedProvider(provider, home() / FOLDER / f"{name}.jsonl")


class RecordedProvider:
    """A provider that writes down every raw reply as it comes, and never asks again what is already in the file."""

    def __init__(self, provider: Provider, path: Path) -> None:
        """`path` is a JSON Lines file, perhaps of a run that was killed while it wrote a line."""
        self.identity = provider.identity
        self._provider = provider
        self._path = path
        self._stored: dict[str, dict[str, Any]] = {}
        self._used: dict[int, dict[str, Any]] = {}
        self.reused = 0  # how many replies were already in the file
        for line in path.read_bytes().split(b"\n") if path.exists() else ():
            try:
                row = json.loads(line)
                self._stored[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was asked here and answered, in request order: index, seed, request, reply, finish_reason, ..."""
        return [self._used[index] for index in sorted(self._used)]

    def complete(
        self, requests: Sequence[Request], done: Callable[[Reply], None] | None = None
    ) -> list[Reply]:
        """Replies in request order, those in the file first; each new one is on disk before `done` gets it."""
        asked = {request.index: request for request in requests}
        missing = []
        for request in requests:
            row = self._stored.get(self._key(request))
            if row is None:
                missing.append(request)
                continue
            self.reused += 1
            self._use(row)
            if done is not None:
                done(_reply(row))

        def record(reply: Reply) -> None:
            request = asked[reply.index]
            row = {"key": self._key(request), "index": request.index, "seed": request.seed}
            row |= {"request": request.text, "reply": reply.text, "finish_reason": reply.finish_reason}
            row |= reply.details
            self._append(row)
            self._stored[row["key"]] = row
            self._use(row)
            if done is not None:
                done(reply)

        if missing:
            self._provider.complete(missing, record)
        return [_reply(self._used[request.index]) for request in requests]

    def _key(self, request: Request) -> str:
        """Hash of what determines the reply."""
        parts = [self.identity, request.index, request.seed, request.text, request.as_json]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def _use(self, row: dict[str, Any]) -> None:
        self._used[row["index"]] = {name: value for name, value in row.items() if name != "key"}

    def _append(self, row: dict[str, Any]) -> None:
        """Add a line in one write, so that two processes never mix theirs, after a torn one if there is one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            torn = size > 0 and (file.seek(size - 1), file.read(1))[1] != b"\n"
            file.write(b"\n" * torn + json.dumps(row).encode() + b"\n")
            os.fsync(file.fileno())


def _reply(row: dict[str, Any]) -> Reply:
    return Reply(row["index"], row["reply"], row["finish_reason"])
