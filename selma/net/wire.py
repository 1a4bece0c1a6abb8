"""The openai package's client, on a wire of ours: what it wants sent is handed on, what comes back is whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx2

from selma.net import web

Send = Callable[[web.Web, httpx2.Request], tuple[httpx2.Response, bytes]]


def client(url: str, key: str, send: Send) -> Any:
    """An openai.OpenAI for the server at `url`. It retries nothing, as it knows less of such servers than we do."""
    import openai  # a second, for those who ask a server

    logging.getLogger("openai").setLevel(logging.WARNING)  # OPENAI_LOG=debug would print requests
    web_client = httpx2.Client(transport=_Wire(send), trust_env=False, follow_redirects=False)
    return openai.OpenAI(api_key=key or "none", base_url=url, max_retries=0, http_client=web_client)


class _Wire(httpx2.BaseTransport):
    """Between the openai package and the web; the package sees whole responses."""

    def __init__(self, send: Send) -> None:
        self._send, self._web = send, web.Web()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response, data = self._send(self._web, request)
        told = (b"content-encoding", b"content-length", b"transfer-encoding")  # of a body that is read by now
        headers = [pair for pair in response.headers.raw if pair[0].lower() not in told]  # bytes: any
        return httpx2.Response(response.status_code, headers=headers, content=data, request=request)
