"""The store of raw replies: each is on disk before anyone parses it, and none is asked for twice.

What comes and what is on file are read alike: whatever a server says becomes data that any file can hold, and a line
that is no reply counts as absent.

A reply is found again by everything that determines it (server, model, sampling, text, seed, index), so one
file serves many runs: a killed one, one that wants more candidates, one under other params.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.prompts.provider import PROMPTS, Provider, Reply, Request
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
        """`path` is a JSON Lines file, perhaps of a run that was killed while it wrote a line.

        Raises UserError, before anything is asked, if it cannot be written.
        """
        self.identity = provider.identity
        self._provider = provider
        self._path = path
        self._stored: dict[str, dict[str, Any]] = {}
        self._used: dict[int, dict[str, Any]] = {}
        self.reused = 0  # how many replies were already in the file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a+b") as file:
                file.seek(0)
                lines = file.read().split(b"\n")
        except OSError as error:
            raise UserError(
                f"{path}: replies cannot be kept there ({error.strerror}); nothing was asked for"
            ) from None
        for line in lines:
            if row := _row(line):
                self._stored[row["key"]] = row

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
            if row is None or (request.placed and row["index"] != request.index):
                missing.append(request)
                continue
            self.reused += 1
            row = {**row, "index": request.index}
            self._use(row)
            if done is not None:
                done(_reply(row))

        def record(reply: Reply) -> None:
            request = asked[reply.index]
            row = {"key": self._key(request), "index": request.index, "seed": request.seed}
            row |= {"request": request.text, "reply": reply.text, "finish_reason": reply.finish_reason}
            row = writable(row | reply.details)
            self._append(row)
            self._stored[row["key"]] = row
            self._use(row)
            if done is not None:
                done(_reply(row))

        if missing:
            self._provider.complete(missing, record)
        return [_reply(self._used[request.index]) for request in requests]

    def _key(self, request: Request) -> str:
        """Hash of what determines the reply."""
        index = request.index if request.placed else None
        parts = [self.identity, index, request.seed, request.text, request.as_json]
        if request.form != PROMPTS:  # those of prompts are found by the keys that they have always had
            parts.append(request.form.schema)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def _use(self, row: dict[str, Any]) -> None:
        self._used[row["index"]] = {name: value for name, value in row.items() if name != "key"}

    def _append(self, row: dict[str, Any]) -> None:
        """Add a line in one write, so that two processes never mix theirs, after a torn one if there is one."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                torn = size > 0 and (file.seek(size - 1), file.read(1))[1] != b"\n"
                line = b"\n" * torn + json.dumps(row).encode() + b"\n"
                while line:  # on a disk that is nearly full a write may end early; the next one says why
                    if not (written := file.write(line)):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    line = line[written:]
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"{self._path}: a reply cannot be kept ({error.strerror}); mend that and run the same command again: "
                f"what is on file is not asked for twice"
            ) from None


DEEPEST = 20  # levels of nesting in what a server says of a reply


def writable(value: Any, depth: int = 0) -> Any:
    """`value` as plain data that JSON and UTF-8 can hold: half a character becomes U+FFFD, no number is NaN or huge."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if abs(value) < 2**63 else None  # which NaN is not either
    if depth == DEEPEST or not isinstance(value, (dict, list, tuple)):
        return None
    if isinstance(value, dict):
        return {writable(str(name)): writable(item, depth + 1) for name, item in value.items()}
    return [writable(item, depth + 1) for item in value]


def _row(line: bytes) -> dict[str, Any] | None:
    """The reply in a line of the file; None if it holds none: a torn line, or one that is not ours."""
    try:
        row = writable(json.loads(line))
    except (ValueError, RecursionError):
        return None
    kinds = {"key": str, "index": int, "reply": str, "finish_reason": str}
    if not isinstance(row, dict) or any(type(row.get(name)) is not kind for name, kind in kinds.items()):
        return None
    return row


_ASKED = ("key", "index", "seed", "request", "reply", "finish_reason")


def _reply(row: dict[str, Any]) -> Reply:
    details = {name: value for name, value in row.items() if name not in _ASKED}
    return Reply(row["index"], row["reply"], row["finish_reason"], details)
