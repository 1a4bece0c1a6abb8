"""The page on a socket of this machine, until it is interrupted."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn

from selma.ground.errors import UserError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PATIENCE = 2  # seconds that a request in flight may take once the server is told to stop


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is a free one. Raises UserError where the address cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error})"
        ) from None


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM. No request is logged: a link may hold a token."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=PATIENCE,
    )
    uvicorn.Server(config).run(sockets=[listener])
