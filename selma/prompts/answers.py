"""What OpenAI-compatible servers answer, each in its own dialect."""

from __future__ import annotations

import json

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
