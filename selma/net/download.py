"""Files by URL or from a local path, checked against a pinned sha256.

A file is first written next to its target with the suffix `.part` and renamed when it is complete and its hash is
right, so the target is never a partial or wrong file. With a pinned hash an interrupted download resumes (HTTP
ranges, if the server supports them); without one it starts again, because the file may have changed in between.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from selma.ground.errors import UserError
from selma.ground.files import sha256_file
from selma.net import web
from selma.net.web import shown

SCHEMES = ("https", "http", "file")
CHUNK = 2**20  # bytes
TIMEOUT = 60.0  # seconds without a byte, and for this many of them:
SLOWEST = 2**16
LARGEST = 2**30  # bytes of a file
HOPS = 10  # redirects in a row
_LATER = (408, 425, 429)  # client errors that may not happen again at the next attempt
_FULL = (errno.ENOSPC, errno.EDQUOT)

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
    UserError for an origin that does not exist or cannot be downloaded, a folder that cannot be written, and a wrong
    hash, which leaves nothing.
    """
    target = Path(target)
    part = target.with_name(f"{target.name}.part")
    local = _local(origin)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        show = progress or (lambda chunks, _: chunks)
        if local is not None:
            _copy(local, part, show)
        else:
            _download(origin, part, show, resume=sha256 is not None, attempts=attempts, wait=wait)
        found = sha256_file(part)
        if sha256 is not None and found != sha256.lower():
            part.unlink()
            raise UserError(
                f"{shown(origin)}: its sha256 is {found}, but {pin} is {sha256}; nothing was kept"
            )
        os.replace(part, target)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise UserError(f"{target}: cannot be written ({error.strerror or type(error).__name__})") from None
    if sha256 is None:
        print(
            f"warning: {shown(origin)}: this file has not been checked; its sha256 is {found}: "
            f"pin it as {pin} once you trust it",
            file=sys.stderr,
        )
    return found


def _local(origin: str) -> Path | None:
    """The path that `origin` is or names as file://; None for a web URL."""
    if "://" not in origin:
        return Path(origin)
    try:
        parts = urlsplit(origin)
        sound = parts.netloc in ("", "localhost") if parts.scheme == "file" else parts.port != -1
    except ValueError:
        sound = False
    if not sound:
        raise UserError(f"{shown(origin)}: is not an address; a file on this machine is file:///PATH")
    if parts.scheme not in SCHEMES:
        raise UserError(
            f"{parts.scheme}:// is not a supported way to fetch a file; allowed: {', '.join(SCHEMES)}, a path"
        )
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _copy(source: Path, part: Path, show: Progress) -> None:
    if not os.path.isfile(source):
        raise UserError(f"{shown(str(source))}: file not found")
    if not os.access(source, os.R_OK):
        raise UserError(f"{shown(str(source))}: cannot be read (Permission denied)")
    with open(source, "rb") as file:
        _write(iter(lambda: file.read(CHUNK), b""), part, "wb", source.stat().st_size, show)


def _download(url: str, part: Path, show: Progress, *, resume: bool, attempts: int, wait: float) -> None:
    net = web.Web()
    for attempt in range(1, attempts + 1):
        if not resume:
            part.unlink(missing_ok=True)
        try:
            return _stream(net, url, part, show, page=resume)
        except (_Broken, httpx2.RequestError) as error:
            last = attempt == attempts or isinstance(error, web.Lasting)
            if last or (isinstance(error, _Broken) and error.lasting):
                if not resume:
                    part.unlink(missing_ok=True)
                kept = "; run again to resume" if part.exists() else ""
                raise UserError(f"{shown(url)}: cannot be downloaded ({web.problem(error)}){kept}") from None
            time.sleep(wait * 2 ** (attempt - 1))


class _Broken(Exception):
    """An answer that is not the file; `lasting` if a further attempt will bring no other."""

    def __init__(self, problem: str, lasting: bool = False) -> None:
        super().__init__(problem)
        self.lasting = lasting


def _stream(net: web.Web, url: str, part: Path, show: Progress, *, page: bool) -> None:
    """Write the rest of `url` to `part`, or all of it if the server does not support ranges.

    A web page is taken for the file only if `page`: where a login is asked for, it is what comes.
    """
    have = part.stat().st_size if part.exists() else 0
    try:
        with web.within(TIMEOUT, per=SLOWEST), closing(_open(net, url, have)) as response:
            have, size = _sizes(response, part, have, page)
            _write(_chunks(response, have, size), part, "ab" if have else "wb", size, show)
    except httpx2.TimeoutException:
        raise _Broken(f"fewer than {SLOWEST >> 10} KiB came in {TIMEOUT:.0f} s") from None
    if size is not None and part.stat().st_size != have + size:
        raise _Broken(f"it ended after {part.stat().st_size} of {have + size} bytes")


def _open(net: web.Web, url: str, have: int) -> httpx2.Response:
    """The response to a request for all but the first `have` bytes, redirects followed over http(s) only."""
    headers = {"User-Agent": "selma", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    waits = httpx2.Timeout(TIMEOUT).as_dict()
    for _ in range(HOPS + 1):
        try:
            at = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError):
            raise _Broken("this is no address", lasting=True) from None
        if at.scheme not in ("http", "https"):
            raise _Broken(f"it redirects to {at.scheme}://, which is not followed", lasting=True)
        if not at.host:
            raise _Broken("this is no address", lasting=True)
        request = httpx2.Request("GET", at, headers=headers, extensions={"timeout": waits})
        response = net.handle_request(request)
        if not 300 <= response.status_code < 400:
            return response
        response.close()
        if "location" not in response.headers:
            raise _Broken(f"HTTP {response.status_code} without an address", lasting=True)
        try:
            url = str(at.join(response.headers["location"]))
        except (httpx2.InvalidURL, ValueError):
            raise _Broken("it redirects to what is no address", lasting=True) from None
    raise _Broken(f"it redirects more than {HOPS} times", lasting=True)


def _sizes(response: httpx2.Response, part: Path, have: int, page: bool) -> tuple[int, int | None]:
    """How many bytes of `part` stay, and how many follow where the server says it; raises _Broken for no file."""
    status, headers = response.status_code, response.headers
    if status == 416:  # the part is not the beginning of what the server has now
        part.unlink(missing_ok=True)
    if status not in (200, 206):
        lasting = status < 500 and status not in (*_LATER, 416)
        raise _Broken(f"HTTP {status}", lasting)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise _Broken("it comes compressed, which was not asked for", lasting=True)
    if not page and headers.get("content-type", "").lower().startswith("text/html"):
        raise _Broken("a web page came instead of the file; does it ask for a login?", lasting=True)
    length = headers.get("content-length", "")
    size = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
    if status == 200:
        have = 0
    else:
        said = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("content-range", ""))
        if not said or int(said[1]) != have or (said[3] != "*" and int(said[3]) != int(said[2]) + 1):
            part.unlink(missing_ok=True)
            raise _Broken("the server sent a different range than requested")
        size = int(said[2]) + 1 - have
    if have + (size or 0) > LARGEST:
        raise _Broken(f"it is larger than {LARGEST >> 20} MiB", lasting=True)
    return have, size


def _chunks(response: httpx2.Response, have: int, size: int | None) -> Iterator[bytes]:
    """The body in chunks, also what came before it broke off; raises _Broken where it does, or is too large."""
    waiting, of = bytearray(), "" if size is None else f" of {have + size}"
    try:
        for piece in response.iter_raw():
            waiting += piece
            have += len(piece)
            if have > LARGEST:
                raise _Broken(f"it is larger than {LARGEST >> 20} MiB", lasting=True)
            while len(waiting) >= CHUNK:
                yield bytes(waiting[:CHUNK])
                del waiting[:CHUNK]
    except httpx2.RequestError as error:
        if waiting:
            yield bytes(waiting)
        if isinstance(error, httpx2.RemoteProtocolError):
            raise _Broken(f"it ended after {have}{of} bytes") from None
        raise
    if waiting:
        yield bytes(waiting)


def _write(chunks: Iterable[bytes], part: Path, mode: str, size: int | None, show: Progress) -> None:
    total = None if size is None else -(-size // CHUNK)
    with open(part, mode) as file:
        for chunk in show(chunks, total):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
