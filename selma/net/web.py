"""HTTP as this repository speaks it: bounded in time, and in an odd environment one clear line.

Proxies (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) and certificates (SSL_CERT_FILE, SSL_CERT_DIR) are the
environment's. No proxy is asked for a server on this machine, and a variable that cannot be used is named without its
value, which may hold a password.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpcore2
import httpx2

from selma.ground.errors import UserError, first_line

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

# What a further attempt does not mend: a name that does not resolve, a certificate that is none, no TLS at all; but a
# server may hang up while it says so.
LASTING = (socket.gaierror, ssl.SSLError)
PASSING = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

# Of this thread: when its request must be over, on time.monotonic's clock; and what begins the time anew.
_clock = threading.local()


class Lasting(httpx2.TransportError):
    """A connection that a further attempt will not mend; the message says why."""


class Unreached(httpx2.ConnectError):
    """A server or proxy that does not answer; the message says which."""


class Web(httpx2.BaseTransport):
    """Sends each request the way that the environment says for its address; safe to use from several threads.

    Redirects are not followed, cookies not kept, and nothing is sent that is not in the request.
    Raises UserError for an environment variable that cannot be used, Lasting and httpx2's own errors otherwise.
    """

    def __init__(self) -> None:
        self._ways: dict[tuple[str, str], httpx2.HTTPTransport] = {}
        self._met: set[str] = set()  # hosts that were reached: what fails there now may pass
        self._lock = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, its body not yet read."""
        if getattr(_clock, "per", None):
            _renew()
        variable, proxy = _proxy(request.url)
        try:
            with self._lock:
                way = self._ways.get((request.url.scheme, proxy))
                if way is None:
                    way = self._ways[request.url.scheme, proxy] = _way(request.url, variable, proxy)
            response = way.handle_request(request)
        except httpx2.ConnectError as error:
            root = cause(error)
            where = f"the proxy that {variable} names: " if variable else ""
            if request.url.host in self._met or not isinstance(root, LASTING) or isinstance(root, PASSING):
                raise Unreached(f"{where}{_words(root)}", request=request) from None
            why = "its name does not resolve" if isinstance(root, socket.gaierror) else "no secure connection"
            raise Lasting(f"{where}{why} ({_words(root)})", request=request) from None
        except UnicodeError:  # a label that is empty or too long
            raise Lasting("its name does not resolve (not a host's name)", request=request) from None
        self._met.add(request.url.host)
        return response

    def close(self) -> None:
        for way in self._ways.values():
            way.close()


@contextmanager
def within(seconds: float, per: int | None = None) -> Iterator[None]:
    """All that this thread asks the web inside the block fails with a timeout after `seconds`.

    With `per`, each request has that time anew, and again for every `per` bytes that come: what is slow is cut off,
    what is long is not.
    """
    _clock.seconds, _clock.per, _clock.came = seconds, per, 0
    _renew()
    try:
        yield
    finally:
        _clock.end = _clock.per = None


def _renew() -> None:
    _clock.end = time.monotonic() + _clock.seconds


def _count(data: bytes) -> bytes:
    if per := getattr(_clock, "per", None):
        _clock.came += len(data)
        if _clock.came >= per:
            _clock.came = 0
            _renew()
    return data


def overdue() -> bool:
    """Whether the time of the block of `within` is over: what tells its timeout from a server's silence."""
    end = getattr(_clock, "end", None)
    return end is not None and time.monotonic() >= end


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1
        except (OSError, UnicodeError):
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def is_public(host: str) -> bool:
    """Whether a host's name or address can be one of the internet: none of this machine or of a network of one's own,
    that is, no private address and no name without a dot or that ends in .local, .internal, .lan or .home.arpa."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        local = is_loopback(host) or "." not in host
        return not (local or host.endswith((".local", ".internal", ".lan", ".home.arpa")))
    return (getattr(address, "ipv4_mapped", None) or address).is_global


def shown(origin: str) -> str:
    """An origin as messages may print it: a URL without its password and query, which can hold keys."""
    try:
        parts = urlsplit(origin)
        if parts.scheme in ("https", "http", "file") and "://" in origin and parts.port != -1:
            return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:  # brackets that do not close, a password where a port should be (.port raises)
        pass
    hidden = re.sub(r"(?<=://).*@|(?<![^/])[^/\s]*:[^/\s]*@", "***@", origin)
    hidden = re.sub(
        r"(?<=://)([^/@:\[]*):(?!\d*(?:/|$))[^/]*", r"\1:***", hidden
    )  # a password, and no host after it
    return re.sub(r"([?&;#])[^=&;#/]*=.*", r"\1***", hidden, flags=re.DOTALL)


def cause(error: BaseException) -> BaseException:
    """The system's own error beneath one of httpx's, which hides it in the context."""
    while under := error.__cause__ or error.__context__:
        error = under
    return error


def problem(error: BaseException) -> str:
    """What went wrong, on one line and without an address."""
    ours = isinstance(error, (Lasting, Unreached)) or not isinstance(error, httpx2.RequestError)
    return first_line(error) if ours else _words(cause(error))


def _words(error: BaseException) -> str:
    said = getattr(error, "strerror", None) if isinstance(error, OSError) else None
    return " ".join(str(said).split()) if said else first_line(error)


def _proxy(url: httpx2.URL) -> tuple[str, str]:
    """The variable that names the proxy for an address, and the proxy; ("", "") where none is to be used."""
    found = urllib.request.getproxies()
    kind = url.scheme if found.get(url.scheme) else "all"
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    if not found.get(kind) or is_loopback(url.host) or urllib.request.proxy_bypass(host):
        return "", ""
    names = [f"{kind}_proxy", f"{kind}_PROXY".upper()]
    return next((name for name in names if os.environ.get(name)), names[1]), found[kind]


def _way(url: httpx2.URL, variable: str, proxy: str) -> httpx2.HTTPTransport:
    try:
        through = httpx2.Proxy(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        if through and not through.url.host:
            raise ValueError
        # Without a secure connection no certificate is read: this context trusts nobody.
        secure = url.scheme == "https" or (through and through.url.scheme == "https")
        context = _certificates() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if through and through.url.scheme == "https":
            through.ssl_context = context
        way = httpx2.HTTPTransport(
            verify=context, proxy=through, trust_env=False, limits=httpx2.Limits(max_connections=None)
        )
    except ImportError:
        raise UserError(
            f"environment variable {variable} names a SOCKS proxy, which needs the package socksio; "
            "install it, name an http:// proxy, or list the server in NO_PROXY"
        ) from None
    except (ValueError, httpx2.InvalidURL):
        raise UserError(
            f"environment variable {variable} is not the address of a proxy; "
            "it must be such as http://host:3128 (its value is not shown)"
        ) from None
    way._pool._network_backend = _Backend()  # the one place where every byte of every way comes by
    return way


def _certificates() -> ssl.SSLContext:
    """What servers' certificates are checked by."""
    file, folder = (os.environ.get(name) for name in CERTIFICATES)
    wrong, kind = CERTIFICATES[0], "a file of certificates"
    try:
        if file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        elif folder and not os.path.isdir(folder):
            wrong, kind = CERTIFICATES[1], "a folder of certificates"
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        wrong, kind = "SSLKEYLOGFILE", "a file that can be written"
        return httpx2.create_ssl_context()
    except (OSError, ValueError) as error:
        raise UserError(
            f"environment variable {wrong} must name {kind} ({_words(error)}); correct it or unset it"
        ) from None


def _left(timeout: float | None) -> float | None:
    """Seconds for the next step: `timeout`, but no more than are left of `within`'s."""
    end = getattr(_clock, "end", None)
    if end is None:
        return timeout
    left = end - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("it took too long")
    return left if timeout is None else min(timeout, left)


class _Backend(httpcore2.SyncBackend):
    """Connections that keep to the time of `within`, which httpx's own timeouts, per step, do not."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *more: Any, **named: Any
    ) -> Any:
        return _Stream(super().connect_tcp(host, port, _left(timeout), *more, **named))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return _count(self._stream.read(max_bytes, _left(timeout)))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
