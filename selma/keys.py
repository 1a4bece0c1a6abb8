"""Keys of OpenAI-compatible servers: from the environment alone, to the server they are meant for, in no message."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from selma.errors import UserError

OPENAI = "https://api.openai.com/v1"


def read(url: str, variable: str | None, *, param: str, needed: bool) -> str:
    """The key in the environment for the server at `url`, or '' where none is needed.

    variable: the one that `param` names; None is OPENAI_API_KEY for OpenAI's own server and no key for another: a
    key goes only where it is meant to. needed: whether a named variable must be set for other servers, too.
    Raises UserError for a variable that is not set and must be, and for what is no variable or no key.
    """
    own = urlsplit(url).hostname == urlsplit(OPENAI).hostname
    if variable is None:
        if not own:
            return ""
        variable = "OPENAI_API_KEY"
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise UserError(f"{param} must be the name of an environment variable, in capitals, not a key")
    key = os.environ.get(variable, "").strip()
    if not key and (needed or own):
        raise UserError(f"environment variable {variable} is not set; it must hold the key for {url}")
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(
            f"environment variable {variable} holds what is no key: characters other than ASCII's"
        )
    return key


def hide(text: str, key: str) -> str:
    """`text` without the key, which some servers say back."""
    return text.replace(key, "***") if len(key) >= 8 else text  # "EMPTY" is no secret


def one_line(text: str, key: str) -> str:
    """A server's words on one short line, without the key."""
    line = " ".join(hide(text, key).split())
    return line if len(line) <= 200 else f"{line[:197]}..."
