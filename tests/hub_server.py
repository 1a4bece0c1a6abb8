"""A real HTTP server on loopback that speaks as much of the model hub's protocol as its client asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.hub_uploads import Uploads, git_hash

LARGE = (".safetensors", ".bin", ".webp")  # kept as LFS files, whose hash the hub knows


@dataclass
class Repo:
    """One repository at one commit."""

    commit: str
    files: dict[str, bytes]
    card: dict[str, object] = field(default_factory=dict)
    error: tuple[int, str] | None = None  # status and the hub's error code, for every request
    said: dict[str, object] | bytes = field(default_factory=dict)  # what its description holds instead
    private: bool = False


@dataclass
class Hub:
    """What the server holds and what it was asked; `half` names a file of which the next answer stops half-way.

    A data set is held as "datasets/OWNER/REPO". `uploads` is what is written to it.
    """

    endpoint: str
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    half: str | None = None
    reached_half: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    tokens: set[str | None] = field(default_factory=set)
    lies: set[str] = field(default_factory=set)  # files whose content is not what the hub says
    uploads: Uploads = field(default_factory=Uploads)

    def got(self) -> list[str]:
        """Files whose content was asked for, in order."""
        return [
            path.partition("/resolve/")[2].partition("/")[2]
            for method, path, _ in self.asked
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of loopback, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._take()

        def do_PUT(self) -> None:
            self._take()

        def _take(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, None))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = hub.uploads.take(hub, self.command, path, body, self.headers.get("Authorization"))
            self._send(status, json.dumps(said).encode(), {"Content-Type": "application/json"})

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range")))
            api = path.startswith(("/api/models/", "/api/datasets/"))
            if "/models/" in path or "/resolve/" in path:
                hub.tokens.add(self.headers.get("Authorization"))
            if refused := hub.uploads.refusal(self.command, path, self.headers.get("Authorization")):
                return self._send(refused, b"{}", {})
            prefix = "datasets/" if path.startswith(("/api/datasets/", "/datasets/")) else ""
            path = path.removeprefix("/api/models/").removeprefix("/api/datasets/").strip("/")
            parts = path.removeprefix("datasets/").split("/")
            repo = hub.repos.get(prefix + "/".join(parts[:2]))
            kind, revision = [*parts[2:4], "", ""][:2]
            if api and not kind and repo is not None:
                kind, revision = "revision", repo.commit
            if repo is None:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if repo.error is not None:
                return self._send(repo.error[0], b"{}", {"X-Error-Code": repo.error[1]})
            if revision != repo.commit:
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if api and kind == "revision":
                if isinstance(repo.said, bytes):
                    return self._send(200, repo.said, {})
                info = self._info("/".join(parts[:2]), repo) | repo.said
                return self._send(200, json.dumps(info).encode(), {})
            name = "/".join(parts[4:])
            if name not in repo.files:
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            self._file(repo, name)

        def _info(self, id: str, repo: Repo) -> dict[str, object]:
            siblings = []
            for name, content in repo.files.items():
                sibling: dict[str, object] = {
                    "rfilename": name,
                    "size": len(content),
                    "blobId": git_hash(content),
                }
                if name.endswith(LARGE):
                    digest = hashlib.sha256(content).hexdigest()
                    sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
                siblings.append(sibling)
            about = {"cardData": repo.card, "tags": [], "private": repo.private}
            return {"id": id, "sha": repo.commit, "siblings": siblings, **about}

        def _file(self, repo: Repo, name: str) -> None:
            content = repo.files[name]
            etag = hashlib.sha256(content).hexdigest()
            if name in hub.lies:
                content = bytes(len(content))
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}
            status, start = 200, 0
            if wanted := self.headers.get("Range"):
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
            if hub.half == name and self.command == "GET":
                hub.half = None
                self._send(status, content[: len(content) // 2], headers, length=len(content))
                self.wfile.flush()
                hub.reached_half.set()
                hub.go_on.wait(60)
                self.close_connection = True
                return
            self._send(status, content, headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
