"""A real HTTP server on loopback that speaks OpenAI's protocol, and misbehaves as it is told."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

WORDS = {
    "number": ("one", "two", "three", "exactly one", "exactly two", "exactly three"),
    "colour": ("red", "green", "blue", "yellow", "purple", "orange", "white", "black"),
    "thing": ("kites", "cups", "boats", "chairs", "foxes", "pears"),
    "place": ("on a lawn", "on a shelf", "at dusk", "by a wall", "in the snow", "under a tree"),
}


@dataclass(frozen=True)
class Answer:
    """What the server sends: `body` as JSON or as it is, after `delay` seconds, cut in half if `half`.

    `drip` is a pause in seconds after every byte, of the headers too with `slow_headers`.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    half: bool = False
    drip: float = 0.0
    slow_headers: bool = False


@dataclass
class Server:
    """`behave(number, body)` answers the number-th request; `seen` holds path, headers, body and whether answered."""

    behave: Callable[[int, dict[str, Any]], Answer]
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    most: int = 0  # requests in flight at once

    @property
    def answered(self) -> list[str]:
        """The requests that got a whole answer, as text."""
        return [json.dumps(one["body"], sort_keys=True) for one in self.seen if one["answered"]]


def prompts(body: dict[str, Any], n: int = 8) -> list[str]:
    """What a good LLM writes to this request; now and then the same as to another."""
    rng = Random(json.dumps(body, sort_keys=True))
    return [" ".join(rng.choice(words) for words in WORDS.values()) for _ in range(n)]


def reply(
    body: dict[str, Any], content: str | None = None, finish_reason: str = "stop", **more: Any
) -> Answer:
    """A good answer in the form that the request asks for, or one with this content."""
    if content is None:
        items = prompts(body)
        as_list = "\n".join(f"{number}. {item}" for number, item in enumerate(items, start=4))
        content = json.dumps({"prompts": items}) if "response_format" in body else as_list
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    if "messages" in body:
        choice["message"] = {"role": "assistant", "content": content, "refusal": None, **more}
    else:
        choice["text"] = content
    usage = {"prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300}
    kind = "chat.completion" if "messages" in body else "text_completion"
    return Answer(
        {"id": "cmpl-1", "object": kind, "created": 1, "model": f"{body['model']}-0613", "choices": [choice]}
        | {"usage": usage}
    )


def error(
    status: int, message: str = "try later", headers: dict[str, str] | None = None, **more: Any
) -> Answer:
    """An error as OpenAI words it."""
    return Answer({"error": {"message": message, "type": "error", **more}}, status, headers or {})


@contextmanager
def serve(behave: Callable[[int, dict[str, Any]], Answer] | None = None) -> Iterator[Server]:
    """The server, from here to the block's end; by default it answers well."""
    server = Server(behave or (lambda number, body: reply(body)))
    lock = threading.Lock()
    flying = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal flying
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen = {
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body": body,
                "answered": False,
            }
            with lock:
                number = len(server.seen)
                server.seen.append(seen)
                flying += 1
                server.most = max(server.most, flying)
            answer = server.behave(number, body)
            time.sleep(answer.delay)
            with lock:
                flying -= 1
            data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            if answer.slow_headers:
                return self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 9999, answer.drip)
            self.send_response(answer.status)
            for name, value in ({"Content-Type": "application/json"} | answer.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            seen["answered"] = answer.status == 200 and not answer.half and not answer.delay
            if answer.drip:
                return self.drip(data, answer.drip)
            self.wfile.write(data[: len(data) // 2] if answer.half else data)
            if answer.half:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def drip(self, data: bytes, pause: float) -> None:
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(pause)

        def log_message(self, *arguments: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: object) -> None:
            pass  # a client that hung up

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/v1"
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        http.shutdown()


def instruction(body: dict[str, Any]) -> str:
    """The text of a request."""
    return body["messages"][0]["content"] if "messages" in body else body["prompt"]


def examples(body: dict[str, Any]) -> list[str]:
    """The in-context examples of a request."""
    return re.findall(r"^\d+\. (.*)$", instruction(body), re.MULTILINE)
