"""What OpenAI-compatible servers answer, each in its own dialect."""

from __future__ import annotations

import json

from selma.prompts.final import is_thought
from selma.prompts.provider import Reply


def _text(content: object) -> str:
    """The text of a message's content, which may come in parts, some of them thoughts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    said = [part for part in parts if isinstance(part, str) or _says(str(part.get("type", "text")))]
    return "".join(part if isinstance(part, str) else _text(part.get("text")) for part in said)


def _says(kind: str) -> bool:
    """Whether a part of this type is what the model says: `text`, `output_text`, not `reasoning_text`."""
    return "text" in kind and not is_thought(kind) and "summary" not in kind


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
