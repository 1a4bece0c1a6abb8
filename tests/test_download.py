"""Bringing files, from real servers on loopback that break off, change, refuse and know ranges or not."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from selma.ground.errors import UserError
from selma.net import download

BODY = bytes(range(256)) * 40_000  # some chunks and a piece of one
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body`; `faults` (a code, "cut" for half an answer, or an answer of its own) are spent one per request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges = BODY, True
        self.faults: list[int | str | tuple[int, dict[str, str], bytes]] = []
        self.asked: list[str] = []  # the Range header of each request

    def send(self, handler: Handler, body: bytes) -> None:
        """The body of an answer of its own; a test may slow it down."""
        handler.wfile.write(body)

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
        if isinstance(fault, tuple):
            status, headers, body = fault
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.server.send(self, body)
            return None
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
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
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


# Answers that are not the file ----------------------------------------------------------------------

SHORT = b"a short file"
HASH = hashlib.sha256(SHORT).hexdigest()
CHUNKED = {"Transfer-Encoding": "chunked", "Connection": "close"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((302, {"Location": "file:///etc/passwd"}, b""), "it redirects to file://, which is not followed"),
        ((302, {"Location": "ftp://host/a"}, b""), "it redirects to ftp://, which is not followed"),
        ((301, {"Location": "http://[::1"}, b""), "it redirects to what is no address"),
        ((302, {}, b""), "HTTP 302 without an address"),
        ((302, {"Location": "/questions.json"}, b""), "it redirects more than 10 times"),
        ((307, {"Location": "http://no-such-host.invalid/?token=secret"}, b""), "its name does not resolve"),
        ((204, {}, b""), "HTTP 204"),
        ((200, {"Content-Encoding": "gzip"}, SHORT), "it comes compressed, which was not asked for"),
        ((200, {"Content-Length": str(2**40)}, SHORT), "it is larger than 1024 MiB"),
        ((200, {"Content-Length": "99"}, SHORT), "it ended after 12 of 99 bytes"),
        ((200, {"Content-Length": "-1"}, SHORT), "cannot be downloaded"),
        ((200, {"Content-Length": "9" * 5000}, SHORT), "cannot be downloaded"),
        ((206, {"Content-Range": "bytes 0-11/1000"}, SHORT), "a different range than requested"),
        ((206, {"Content-Range": "bytes 5-16/17"}, SHORT), "a different range than requested"),
        ((206, {}, SHORT), "a different range than requested"),
        ((200, CHUNKED, b"c\r\n" + SHORT + b"\r\n"), "it ended after 12 bytes"),
        ((200, CHUNKED, b"c\r\n" + SHORT[:5]), "it ended after 5 bytes"),
        ((200, CHUNKED, b"zzz\r\n" + SHORT), "cannot be downloaded"),
    ],
)
def test_an_answer_that_is_not_the_file_is_one_line(server, fetch, tmp_path, monkeypatch, answer, says):
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.1" if answer[1] == CHUNKED else "HTTP/1.0")
    server.faults = [answer] * 40
    with pytest.raises(UserError) as error:
        fetch(server.url, sha256=None)
    assert says in str(error.value) and "\n" not in str(error.value) and "secret" not in str(error.value)
    assert brought(tmp_path) == {}


def test_a_redirect_over_http_is_followed(server, fetch, tmp_path):
    server.faults = [
        (302, {"Location": "/elsewhere/%C3%A4?key=1"}, b""),
        (308, {"Location": "a b/\xe4"}, b""),
    ]
    assert fetch(server.url) == SHA
    assert len(server.asked) == 3


def test_a_web_page_is_not_taken_for_a_file_that_nobody_checked(server, fetch, tmp_path):
    page = (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in")
    server.faults = [page]
    with pytest.raises(UserError, match="a web page came instead of the file; does it ask for a login"):
        fetch(server.url, sha256=None)
    server.faults = [page]
    assert fetch(server.url, sha256=hashlib.sha256(page[2]).hexdigest())  # checked: it is what was wanted


def test_a_body_without_an_end_is_not_kept(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 1000)
    server.faults = [(200, {}, b"x" * 5000)]
    with pytest.raises(UserError, match="it is larger than 0 MiB"):
        fetch(server.url, sha256=None)
    assert brought(tmp_path) == {}


def test_a_file_that_drips_is_given_up(server, fetch, tmp_path, monkeypatch):
    def drip(handler: Handler, body: bytes) -> None:
        for byte in body:
            try:
                handler.wfile.write(bytes([byte]))
            except OSError:
                return  # it hung up
            time.sleep(0.02)

    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    server.send = drip
    server.faults = [(200, {"Content-Length": "5000"}, b"x" * 5000)]
    start = time.monotonic()
    with pytest.raises(UserError, match="fewer than 64 KiB came"):
        fetch(server.url, sha256=None, attempts=1)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("origin", ["url", "path"])
@pytest.mark.parametrize("why", ["a file is in the way", "a folder is in the way", "name too long"])
def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path, origin, why):
    (tmp_path / "mine").write_bytes(BODY)
    target = tmp_path / "in/questions.json"
    if why == "a file is in the way":
        (tmp_path / "in").write_text("x")
    elif why == "a folder is in the way":
        target.mkdir(parents=True)
    else:
        target = tmp_path / "in" / ("x" * 300)
    with pytest.raises(UserError, match="cannot be written") as error:
        download.fetch(
            server.url if origin == "url" else str(tmp_path / "mine"), target, sha256=SHA, pin="pin"
        )
    assert "\n" not in str(error.value)
    assert len(server.asked) <= 1


@pytest.mark.parametrize(
    "origin",
    [
        "https://me:secret@[::1/a.json?token=secret",
        "https://me:secret@host:port/a.json",
        "https://me:se/cret:secret@host/a.json",
        "https://me:secret/a.json",
        "https://me:secret",
        "https:/me:secret@host/a.json",
        "me:secret@host/a.json?token=secret",
        "htps://me:secret@host/a.json",
        "https://me:secret@ho st..invalid/a.json?token=secret#secret",
        "https://me:secret@no-such-host.invalid/\xe4?token=secret",
        "file://me:secret@host/a.json",
        "https://host\x00/?token=secret",
        "http:///a?token=secret",
    ],
)
def test_a_secret_of_an_address_that_is_none_is_not_shown(fetch, origin):
    with pytest.raises(UserError) as error:
        fetch(origin)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_an_odd_environment_is_one_line_and_no_matter_on_loopback(server, fetch, monkeypatch, variable):
    for name in ("SSL_CERT_FILE", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "socks5://me:secret@host:1")
    assert fetch(server.url) == SHA
    scheme = "https" if "SSL" in variable else "http"
    with pytest.raises(UserError, match=f"environment variable {variable} ") as error:
        fetch(f"{scheme}://no-such-host.invalid/a.json")
    assert "secret" not in str(error.value)
