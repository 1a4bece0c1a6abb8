"""Files by URL or from a local path, checked against a pinned sha256.

A file is first written next to its target with the suffix `.part` and renamed when it is complete and its hash is
right, so the target is never a partial or wrong file. With a pinned hash an interrupted download resumes (HTTP
ranges, if the server supports them); without one it starts again, because the file may have changed in between.
"""

from __future__ import annotations

import errno
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

from selma.ground.errors import UserError
from selma.ground.files import sha256_file

SCHEMES = ("https", "http", "file")
CHUNK = 2**20  # bytes
TIMEOUT = 60  # seconds without a byte
_LATER = (408, 425, 429)  # client errors that may not happen again at the next attempt

# From an iterable of chunks and their number (None: not known) to the same chunks, shown as they come.
Progress = Callable[[Iterable[bytes], int | None], Iterable[bytes]]


def fetch(
    origin: str,
    target: Path,
    *,
    sha256: str | None,
    pin: str,
    progress: Progress | None = None,
    attempts: int = 3,
    wait: float = 1.0,
) -> str:
    """Download or copy `origin`, a URL (https, http or file) or a path, to `target`; return its hex sha256.

    `pin` is the params key of the hash, for messages. Without a `sha256` the one to pin is printed on stderr.
    A download that fails is tried `attempts` times in total, after `wait`, 2 * `wait`, ... seconds. Raises
    UserError for an origin that does not exist or cannot be downloaded, and for a wrong hash, which leaves nothing.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    show = progress or (lambda chunks, _: chunks)
    local = _local(origin)
    if local is not None:
        _copy(local, part, show)
    else:
        _download(origin, part, show, resume=sha256 is not None, attempts=attempts, wait=wait)

    found = sha256_file(part)
    if sha256 is None:
        print(
            f"warning: {shown(origin)}: this file has not been checked; its sha256 is {found}: "
            f"pin it as {pin} once you trust it",
            file=sys.stderr,
        )
    elif found != sha256.lower():
        part.unlink()
        raise UserError(f"{shown(origin)}: its sha256 is {found}, but {pin} is {sha256}; nothing was kept")
    os.replace(part, target)
    return found


def shown(origin: str) -> str:
    """An origin as messages may print it: a URL without its password and query, which can hold keys."""
    parts = urlsplit(origin)
    if parts.scheme not in SCHEMES:
        return origin
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _local(origin: str) -> Path | None:
    """The path that `origin` is or names as file://; None for a web URL."""
    parts = urlsplit(origin)
    if "://" not in origin:
        return Path(origin)
    if parts.scheme not in SCHEMES:
        raise UserError(
            f"{parts.scheme}:// is not a supported way to fetch a file; allowed: {', '.join(SCHEMES)}, a path"
        )
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _copy(source: Path, part: Path, show: Progress) -> None:
    if not source.is_file():
        raise UserError(f"{source}: file not found")
    try:
        with open(source, "rb") as file:
            _write(file, part, "wb", source.stat().st_size, show)
    except PermissionError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from None


def _download(url: str, part: Path, show: Progress, *, resume: bool, attempts: int, wait: float) -> None:
    for attempt in range(1, attempts + 1):
        if not resume:
            part.unlink(missing_ok=True)
        try:
            return _stream(url, part, show)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            if code == 416:  # the part is not the beginning of what the server has now
                part.unlink(missing_ok=True)
            lasting = code is not None and 400 <= code < 500 and code not in (*_LATER, 416)
            if lasting or attempt == attempts:
                if not resume:
                    part.unlink(missing_ok=True)
                kept = "; run again to resume" if part.exists() else ""
                raise UserError(f"{shown(url)}: cannot be downloaded ({_problem(error)}){kept}") from None
            time.sleep(wait * 2 ** (attempt - 1))


def _stream(url: str, part: Path, show: Progress) -> None:
    """Write the rest of `url` to `part`, or all of it if the server does not support ranges."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "selma", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise OSError("the server sent a different range than requested")
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        _write(response, part, "ab" if have else "wb", size, show)
    if size is not None and part.stat().st_size != have + size:
        raise OSError(f"it ended after {part.stat().st_size} of {have + size} bytes")


def _write(source: IO[bytes], part: Path, mode: str, size: int | None, show: Progress) -> None:
    total = None if size is None else -(-size // CHUNK)
    with open(part, mode) as file:
        for chunk in show(_chunks(source), total):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def _problem(error: Exception) -> str:
    """What went wrong, on one line, without the URL (urllib's own messages have none)."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(getattr(reason, "strerror", None) or reason).split()) or type(error).__name__
