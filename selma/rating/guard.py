"""Who may reach the page: the name it is asked under, the token in the link, and where a vote is sent from.

Host     DNS rebinding makes a browser ask this server under a name of the attacker's; an unknown name is refused.
token    Where one is needed, the link holds it once: a cookie takes its place, so that it leaves the address bar.
Origin   Browsers say which page a form was sent from; a vote from any other page (CSRF) is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "selma-rate"
MONTH = 30 * 24 * 3600  # seconds
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # not no-referrer, under which browsers hide a form's Origin
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI application that lets through to another what it should answer."""

    def __init__(self, app: ASGIApp, *, host: str, name: str | None = None, token: str | None = None) -> None:
        """`host` is the address that is bound, `name` a further one under which raters reach it."""
        self.app, self.token = app, token
        self.open = not is_loopback(host)
        self.names = {"localhost", host.lower(), *([name.lower()] if name else [])}
        if self.open:
            self.names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (self._refusal(Request(scope)) or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that must not reach the application; None for one that may."""
        host = request.headers.get("host", "")
        if not self._known(host):
            return _no(400, "This server is not reached under that name; --name allows one.")
        if self.token is not None:
            given = request.query_params.get("token")
            if given is not None and same(given, self.token):
                return self._welcome(request)
            if given is not None or not same(request.cookies.get(COOKIE, ""), self._cookie()):
                return _no(403, "Please open the whole link that you were sent.")
        if request.method not in ("GET", "HEAD"):
            origin = request.headers.get("origin", "")
            if (
                urlsplit(origin).netloc.lower() != host.lower()
                or request.headers.get("sec-fetch-site", "same-origin") != "same-origin"
            ):
                return _no(403, "A vote comes from the page itself; please open it again.")
        return None

    def _known(self, host: str) -> bool:
        """Whether a Host header names this server: an address cannot be rebound, a name must be known."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.open or address.is_loopback

    def _welcome(self, request: Request) -> Response:
        response = RedirectResponse("/" + quote(request.url.path.lstrip("/")), 303, HEADERS)
        response.set_cookie(COOKIE, self._cookie(), max_age=MONTH, httponly=True, samesite="lax")
        return response

    def _cookie(self) -> str:
        return hmac.new((self.token or "").encode(), b"selma.rate", hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that says nothing about where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _no(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, HEADERS)
