"""The request to the LLM: a skill's rules and in-context examples become one text (SELMA, section 3.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from selma.prompts.skills import Skill


def request_text(
    skill: Skill, examples: Sequence[str], n: int, reply: Literal["list", "json"] = "list"
) -> str:
    """The request for `n` more prompts of a skill, with in-context examples numbered from 1.

    The reply is asked for as a numbered list that continues after the examples, or as JSON: an object with
    a list `prompts`. `replies.parse_reply` reads either.
    """
    rules = "\n".join(
        f"- {rule}" for rule in (*skill.rules, f"Use at most {skill.max_words} words per prompt.")
    )
    shown = "\n".join(f"{number}. {example}" for number, example in enumerate(examples, start=1))
    form = {
        "list": f"a numbered list, one prompt per line, starting at {len(examples) + 1}",
        "json": 'a JSON object {"prompts": ["...", ...]} whose list holds the new prompts, not numbered',
    }
    return (
        "You write prompts that test a text-to-image model on one skill.\n\n"
        f"Skill: {skill.description}\n\n"
        f"Rules:\n{rules}\n\n"
        f"Examples:\n{shown}\n\n"
        f"Write {n} more prompts of this kind. Make them differ from the examples and from each other. Reply "
        f"with nothing but {form[reply]}."
    )


def request_seed(key: str) -> int:
    """The seed of the request that `key` names, of 31 bits: some servers take no more."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) >> 1
