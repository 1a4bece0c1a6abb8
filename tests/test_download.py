"""Bringing files, from real servers on loopback that break off, change, refuse and know ranges or not."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from selma.ground.errors import UserError
from selma.net import download

BODY = bytes(range(256)) * 40_000  # some chunks and a piece of one
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body`; `faults` (an HTTP code, or "cut" for half an answer) are spent one per request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges = BODY, True
        self.faults: list[int | str] = []
        self.asked: list[str] = []  # the Range header of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/questions.json"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            return self.send_error(fault)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(self.server.body):
            return self.send_error(416)
        body = self.server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.body) - 1}/*")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., str]:
    def bring(origin: str, sha256: str | None = SHA, **options: object) -> str:
        settings = {"pin": "benchmarks.tifa.sha256", "wait": 0.0, **options}
        return download.fetch(origin, tmp_path / "in/questions.json", sha256=sha256, **settings)

    return bring


def brought(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "in").glob("*")}


def test_a_file_comes_whole_and_its_chunks_are_shown(server, fetch, tmp_path):
    seen = []

    def progress(chunks, total):
        seen.append(total)
        for chunk in chunks:
            seen.append(len(chunk))
            yield chunk

    assert fetch(server.url, progress=progress) == SHA
    assert brought(tmp_path) == {"questions.json": BODY}
    assert seen[0] == len(seen) - 1 == -(-len(BODY) // download.CHUNK)
    assert sum(seen[1:]) == len(BODY)


def test_a_path_and_a_file_url_serve_too(fetch, tmp_path):
    source = tmp_path / "my file.json"
    source.write_bytes(BODY)
    for origin in (str(source), source.as_uri()):
        assert fetch(origin) == SHA
        assert brought(tmp_path) == {"questions.json": BODY}
    assert source.read_bytes() == BODY


def test_without_a_pinned_hash_the_one_to_pin_is_printed(server, fetch, capsys):
    assert fetch(server.url, sha256=None) == SHA
    warning = capsys.readouterr().err
    assert f"this file has not been checked; its sha256 is {SHA}: pin it as benchmarks.tifa.sha256" in warning


@pytest.mark.parametrize("way", ["url", "path"])
def test_a_wrong_hash_names_both_and_leaves_nothing(server, fetch, tmp_path, way):
    (tmp_path / "mine.json").write_bytes(BODY)
    with pytest.raises(UserError) as error:
        fetch(server.url if way == "url" else str(tmp_path / "mine.json"), sha256="0" * 64)
    assert SHA in str(error.value) and "0" * 64 in str(error.value)
    assert brought(tmp_path) == {}


def test_what_was_there_stays_when_the_new_file_is_wrong(server, fetch, tmp_path):
    fetch(server.url)
    server.body = b"another"
    with pytest.raises(UserError, match="its sha256 is"):
        fetch(server.url)
    assert brought(tmp_path) == {"questions.json": BODY}


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, fetch, tmp_path):
    server.faults = ["cut", 503]
    assert fetch(server.url) == SHA
    half = len(BODY) // 2
    assert server.asked == ["", f"bytes={half}-", f"bytes={half}-"]
    assert brought(tmp_path) == {"questions.json": BODY}


def test_another_run_goes_on_too(server, fetch, tmp_path):
    server.faults = ["cut"]
    with pytest.raises(UserError, match=r"ended after \d+ of \d+ bytes\); run again to resume"):
        fetch(server.url, attempts=1)
    assert list(brought(tmp_path)) == ["questions.json.part"]
    assert fetch(server.url) == SHA
    assert server.asked[1].startswith("bytes=")
    assert brought(tmp_path) == {"questions.json": BODY}


def test_a_server_without_ranges_sends_it_all_again(server, fetch, tmp_path):
    server.ranges = False
    server.faults = ["cut"]
    assert fetch(server.url) == SHA
    assert brought(tmp_path) == {"questions.json": BODY}


def test_a_file_that_got_shorter_meanwhile_starts_again(server, fetch, tmp_path):
    server.faults = ["cut"]
    with pytest.raises(UserError):
        fetch(server.url, attempts=1)
    server.body = BODY[:1000]
    assert fetch(server.url, sha256=hashlib.sha256(server.body).hexdigest()) != SHA
    assert brought(tmp_path) == {"questions.json": BODY[:1000]}


def test_an_unpinned_download_starts_again_and_leaves_nothing_broken(server, fetch, tmp_path):
    server.faults = ["cut"]
    assert fetch(server.url, sha256=None) == SHA
    assert server.asked == ["", ""]
    server.faults = ["cut"]
    (tmp_path / "in/questions.json").unlink()
    with pytest.raises(UserError, match="ended after"):
        fetch(server.url, sha256=None, attempts=1)
    assert brought(tmp_path) == {}


def test_what_is_not_there_is_not_asked_for_again(server, fetch, tmp_path):
    server.faults = [404, 404]
    with pytest.raises(UserError) as error:
        fetch(server.url + "?token=secret")
    assert str(error.value) == f"{server.url}: cannot be downloaded (HTTP 404)"
    assert len(server.asked) == 1
    assert brought(tmp_path) == {}


def test_keys_in_a_url_stay_out_of_messages():
    assert download.shown("https://me:secret@host.org:1/a.json?key=secret#x") == "https://host.org:1/a.json"
    assert download.shown("data/a#b?.json") == "data/a#b?.json"


@pytest.mark.parametrize(
    ("origin", "named"),
    [
        ("http://127.0.0.1:9/a.json", "cannot be downloaded (Connection refused)"),
        (
            "ftp://host/a.json",
            "ftp:// is not a supported way to fetch a file; allowed: https, http, file, a path",
        ),
        ("nowhere/a.json", "nowhere/a.json: file not found"),
        ("file:///nowhere/a.json", "/nowhere/a.json: file not found"),
    ],
)
def test_an_origin_that_is_not_to_be_had_is_one_line(fetch, tmp_path, origin, named):
    with pytest.raises(UserError) as error:
        fetch(origin)
    assert named in str(error.value) and "\n" not in str(error.value)
    assert brought(tmp_path) == {}
