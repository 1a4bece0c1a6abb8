"""What OpenAI-compatible servers say: answers, errors and headers, each server in its own dialect."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from selma.prompts.provider import Reply


def read_answer(raw: str, index: int) -> Reply | None:
    """The answer in a response's body; None if it holds no answer."""
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        details = {name: body[name] for name in ("id", "model", "usage") if body.get(name) is not None}
        if "message" in choice:
            content = choice["message"].get("content")
            if isinstance(content, list):  # parts
                content = "".join(part.get("text") or "" for part in content)
            if not content and choice["message"].get("refusal"):
                content, details["refused"] = choice["message"]["refusal"], True
        else:
            content = choice["text"]
        return Reply(index, str(content or ""), str(choice.get("finish_reason") or "stop"), details)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def error_message(text: str) -> str:
    """What an error's body says: its message in OpenAI's layout or FastAPI's, else all of it."""
    try:
        body = json.loads(text)
        error = body.get("error") or body.get("detail") or body
        return str(error["message"] if isinstance(error, dict) and "message" in error else error)
    except (ValueError, AttributeError, RecursionError):
        return text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks us to wait: a number or a date; None if it says neither."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, IndexError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None
