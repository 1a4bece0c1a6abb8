"""Collecting prompts from an LLM in rounds, and what that took (SELMA, section 3.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

from selma.ground.errors import UserError
from selma.ground.pairs import prompt_id
from selma.prompts.provider import Provider, Request
from selma.prompts.replies import parse_reply
from selma.prompts.request import request_text
from selma.prompts.skills import Skill

PATIENCE = 5  # rounds in a row without a single new prompt before giving up


def collect(
    skill: Skill, provider: Provider, *, seed: int, n: int, examples: int, requests: int
) -> Iterator[dict[str, Any]]:
    """New prompts as they arrive, endlessly: rows of prompts.jsonl.

    They come in rounds of `requests` requests for `n` prompts each. Every request shows `examples` prompts
    drawn from the pool as it was when the round began, and replies join the pool in request order, so the
    outcome does not depend on how many are in flight. Raises UserError after PATIENCE barren rounds.
    """
    rows: dict[str, dict[str, Any]] = {}
    barren = 0
    for number in count():
        pool = [*skill.seeds, *rows]
        indices = range(number * requests, (number + 1) * requests)
        replies = provider.complete([_request(skill, pool, seed, index, n, examples) for index in indices])
        new = 0
        for reply in replies:
            for text in parse_reply(reply.text, reply.finish_reason):
                if text in rows:
                    rows[text]["repeats"] += 1
                elif text not in skill.seeds:
                    id = prompt_id(skill.name, text)
                    rows[text] = {"id": id, "text": text, "request": reply.index, "repeats": 0}
                    new += 1
                    yield rows[text]
        barren = 0 if new else barren + 1
        if barren == PATIENCE:
            raise UserError(
                f"skill {skill.name}: {PATIENCE} rounds of requests produced nothing new after "
                f"{len(rows)} prompts; lower prompts.candidates, raise prompts.round, or widen its rules. "
                f"The last reply ended by {replies[-1].finish_reason!r} and begins: "
                f"{' '.join(replies[-1].text.split())[:80]!r}"
            )


def cost(
    raw: Sequence[Mapping[str, Any]], input_price: float | None, output_price: float | None
) -> dict[str, int | float]:
    """What the replies in `raw` (rows of raw.jsonl) took: `requests`, `empty`, tokens, `estimated_cost`.

    `empty` counts replies without a single prompt. Prices are per million tokens. What the server did not
    report, or has no price, is left out.
    """
    took: dict[str, int | float] = {
        "requests": len(raw),
        "empty": sum(not parse_reply(row["reply"], row["finish_reason"]) for row in raw),
    }
    usages = [row.get("usage") or {} for row in raw]
    for name in ("prompt_tokens", "completion_tokens"):
        if all(isinstance(usage.get(name), int) for usage in usages):
            took[name] = sum(usage[name] for usage in usages)
    if {"prompt_tokens", "completion_tokens"} <= set(took) and None not in (input_price, output_price):
        spent = took["prompt_tokens"] * input_price + took["completion_tokens"] * output_price
        took["estimated_cost"] = round(spent / 1e6, 6)
    return took


def _request(skill: Skill, pool: list[str], seed: int, index: int, n: int, examples: int) -> Request:
    """Request `index`, its examples and its own seed drawn from the run's."""
    key = f"{seed}:{skill.name}:{index}"
    shown = Random(key).sample(pool, examples)
    request_seed = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) >> 1
    as_list, as_json = (request_text(skill, shown, n, reply) for reply in ("list", "json"))
    return Request(index, as_list, request_seed, n, as_json)
