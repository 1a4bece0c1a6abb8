"""OpenAI-compatible servers' addresses and keys: from the environment only, never in a message or a file."""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx2

from selma.ground.errors import UserError
from selma.net.web import is_loopback, is_public

OPENAI = "https://api.openai.com/v1"
VARIABLE = "OPENAI_API_KEY"
# What OpenAI bills a request to; sent where its key is sent.
ACCOUNT = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}


def address(base_url: str | None, *, param: str) -> str:
    """The server's address, with nothing secret in it; None is OpenAI's. Raises UserError if invalid."""
    url = (base_url or OPENAI).rstrip("/")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        sound = sound and url.isprintable() and " " not in url and bool(httpx2.URL(url).raw_host)
    except (ValueError, httpx2.InvalidURL):  # brackets that do not close, a port that is not a number
        sound = False
    if not sound or "@" in parts.netloc or parts.query or parts.fragment:
        # Not quoted: it may hold a password.
        raise UserError(
            f"{param} must be an address such as http://localhost:8000/v1, without user, password or query"
        )
    return url


def read(url: str, variable: str | None, *, param: str) -> str:
    """The key in the environment for the server at `url`, or '' where none is needed.

    variable: the one that `param` names; None is OPENAI_API_KEY for OpenAI's own server and no key for another: a
    key goes only where it is meant to. Everyone on the way reads what goes over plain http: OpenAI's never does, others
    do not to a server that can be on the internet.
    Raises UserError for a variable that is not set, and for an invalid variable name or key.
    """
    parts = urlsplit(url)
    if variable is None and parts.hostname != urlsplit(OPENAI).hostname:
        return ""
    # What a param names is never quoted: people paste the key itself.
    named = f"the environment variable that {param} names" if variable else f"environment variable {VARIABLE}"
    variable = variable or VARIABLE
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise UserError(f"{param} must be the name of an environment variable, in capitals, not a key")
    openai = _is_openai(url) or variable == VARIABLE
    if openai and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise UserError(
            f"{param}: {VARIABLE} is never sent over plain http; make the server's address begin with https://"
        )
    if parts.scheme != "https" and is_public(parts.hostname or ""):
        raise UserError(
            f"{param}: a key is never sent over plain http to a public server; make the server's address begin with "
            "https://"
        )
    if not (key := os.environ.get(variable, "").strip()):
        raise UserError(f"{named} is not set; it must hold the key for {url}")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"{named} does not hold a valid key: only printable ASCII without spaces is allowed")
    return key


def headers(url: str, key: str) -> dict[str, str]:
    """What a request to the server at `url` says of its sender: the key, and OpenAI's account to OpenAI only."""
    sent = {"Authorization": f"Bearer {key}"} if key else {}
    if not key or not _is_openai(url):
        return sent
    for header, variable in ACCOUNT.items():
        if value := os.environ.get(variable, "").strip():
            if not re.fullmatch(r"[!-~]+", value):
                raise UserError(f"environment variable {variable} does not hold a valid id")
            sent[header] = value
    return sent


def _is_openai(url: str) -> bool:
    """Whether a server is OpenAI's own, in whichever region."""
    host, own = (urlsplit(url).hostname or "").rstrip("."), urlsplit(OPENAI).hostname or ""
    return host == own or host.endswith(f".{own}")


# What a server says ----------------------------------------------------------------------------


def hide(text: str, key: str) -> str:
    """`text` without the key, which some servers echo: as it is, escaped as in JSON, HTML or a URL, or in base64."""
    return _spellings(key).sub("***", text) if len(key) >= 8 else text  # "EMPTY" is not a secret


@lru_cache(maxsize=8)
def _spellings(key: str) -> re.Pattern[str]:
    """Every way to write the key that is known here, escaped any number of times."""

    def spell(letter: str) -> str:
        code, name = f"(?i:{ord(letter):02x})", html.escape(letter).strip("&;")
        return (
            rf"(?:\\{{1,8}}(?:x|u00|u\{{0{{0,6}}){code}\}}?|%(?:25){{0,4}}{code}"
            rf"|&(?:amp;){{0,4}}(?:#0{{0,6}}{ord(letter)}|#[xX]0{{0,6}}{code}|{re.escape(name)});"
            rf"|\\{{0,8}}{re.escape(letter)})"
        )

    escaped = "".join(spell(letter) for letter in key)
    # In base64 a letter's place among three decides how it is written; the ends are shared with what is around them.
    encoded = [base64.b64encode(b" " * shift + key.encode()).decode() for shift in range(3)]
    cores = {code[-(-8 * shift // 6) : -4] for shift, code in enumerate(encoded)}
    either = "|".join(re.escape(core).replace(r"\+", "[+-]").replace("/", "(?:[/_]|\\\\/)") for core in cores)
    return re.compile(f"{escaped}|(?:{either})[A-Za-z0-9+/=_-]*")


def clean(text: str, key: str) -> str:
    """A server's words without the key, and such as every file can hold. JSON is decoded for that and encoded again.

    Half a surrogate pair becomes "?"; NaN, infinity and integers beyond 64 bits become null.
    """
    try:
        return json.dumps(_clean(json.loads(text, parse_int=_integer), key))
    except (ValueError, RecursionError):
        return _clean(text, key)


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) < 20 else None  # Python itself refuses thousands of digits


def _clean(value: Any, key: str) -> Any:
    if isinstance(value, str):
        return hide(value, key).encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_clean(item, key) for item in value]
    if isinstance(value, dict):
        return {_clean(name, key): _clean(item, key) for name, item in value.items()}
    return value


def one_line(text: str, key: str) -> str:
    """A server's words on one short line, without the key."""
    said = "".join(letter if letter.isprintable() else " " for letter in _clean(text, key))
    line = " ".join(said.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
