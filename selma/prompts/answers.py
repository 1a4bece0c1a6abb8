"""What OpenAI-compatible servers say: answers, errors and headers, each server in its own dialect."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from selma.prompts.provider import Reply


def _text(content: object) -> str:
    """The text of a message's content, which may come in parts, some of them thoughts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    said = [part for part in parts if isinstance(part, str) or "text" in str(part.get("type", "text"))]
    return "".join(part if isinstance(part, str) else _text(part.get("text")) for part in said)


def read_answer(raw: str, index: int) -> Reply | None:
    """The answer in a response's body; None if it holds no answer.

    Reasoning that a server reports beside the answer is no part of it; where there is nothing else, `details` say so.
    """
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        details = {name: body[name] for name in ("id", "model", "usage") if body.get(name) is not None}
        if "message" in choice:
            message = choice["message"]
            content = _text(message.get("content"))
            if not content and message.get("refusal"):
                content, details["refused"] = _text(message["refusal"]), True
            if not content and any(
                message.get(name) for name in ("reasoning_content", "reasoning", "thinking")
            ):
                details["reasoning_only"] = True
        else:
            content = _text(choice["text"])
        reason = choice.get("finish_reason")
        return Reply(index, content, reason if isinstance(reason, str) and reason else "stop", details)
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
