"""OpenAI-compatible servers' addresses and keys: from the environment only, never in a message."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from selma.ground.errors import UserError

OPENAI = "https://api.openai.com/v1"


def address(base_url: str | None, *, param: str) -> str:
    """The server's address, with nothing secret in it; None is OpenAI's. Raises UserError if invalid."""
    url = (base_url or OPENAI).rstrip("/")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is not a number
        sound = False
    if not sound or "@" in parts.netloc or parts.query:
        # Not quoted: it may hold a password.
        raise UserError(
            f"{param} must be an address such as http://localhost:8000/v1, without user, password or query"
        )
    return url


def read(url: str, variable: str | None, *, param: str) -> str:
    """The key in the environment for the server at `url`, or '' where none is needed.

    variable: the one that `param` names; None is OPENAI_API_KEY for OpenAI's own server and no key for another: a
    key goes only where it is meant to. Raises UserError for a variable that is not set, and for an invalid
    variable name or key.
    """
    if variable is None:
        if urlsplit(url).hostname != urlsplit(OPENAI).hostname:
            return ""
        variable = "OPENAI_API_KEY"
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise UserError(f"{param} must be the name of an environment variable, in capitals, not a key")
    if not (key := os.environ.get(variable, "").strip()):
        raise UserError(f"environment variable {variable} is not set; it must hold the key for {url}")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(
            f"environment variable {variable} does not hold a valid key: only printable ASCII without spaces is allowed"
        )
    return key


def hide(text: str, key: str) -> str:
    """`text` without the key, which some servers echo."""
    return text.replace(key, "***") if len(key) >= 8 else text  # "EMPTY" is not a secret


def one_line(text: str, key: str) -> str:
    """A server's words on one short line, without the key."""
    line = " ".join(hide(text, key).split())
    return line if len(line) <= 200 else f"{line[:197]}..."
