"""Collecting prompts from an LLM in rounds, and what that took (SELMA, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

from selma.ground.errors import UserError
from selma.ground.pairs import prompt_id
from selma.prompts.final import final_part
from selma.prompts.provider import Provider, Reply, Request
from selma.prompts.replies import FILTERED, TOO_LONG, parse_reply
from selma.prompts.request import request_seed, request_text
from selma.prompts.skills import Skill

PATIENCE = 5  # rounds in a row without a single new prompt before giving up
MOST = 10**9  # tokens of one reply; a server that reports more counts something else


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
            last = replies[-1]
            raise UserError(
                f"skill {skill.name}: {PATIENCE} rounds of requests produced nothing new after {len(rows)} prompts; "
                f"{_advice(replies)}. The last reply ended by {last.finish_reason[:40]!r} and begins: "
                f"{' '.join(last.text.split())[:80]!r}"
            )


def _advice(replies: Sequence[Reply]) -> str:
    """What fits a round that brought nothing new."""
    if not any(parse_reply(reply.text, reply.finish_reason) for reply in replies):
        if any(TOO_LONG.fullmatch(reply.finish_reason) for reply in replies):
            return (
                "the replies are cut off before their first whole prompt: raise llm.max_tokens (a model that reasons "
                "spends it on thoughts), or lower prompts.per_request"
            )
        if any(FILTERED.fullmatch(reply.finish_reason) for reply in replies):
            return "a content filter stops the replies: change the skill's words, or take another llm.model"
        if any(reply.details.get("reasoning_only") or _only_thought(reply.text) for reply in replies):
            return "the replies hold thoughts and no answer: raise llm.max_tokens, or take a model that does not reason"
        if not any(reply.text.strip() for reply in replies):
            return "the replies are empty: raise llm.max_tokens, or take another llm.model or llm.api"
    return "lower prompts.candidates, raise prompts.round, or widen its rules"


def _only_thought(text: str) -> bool:
    return bool(text.strip()) and not final_part(text).strip()


def cost(
    raw: Sequence[Mapping[str, Any]], input_price: float | None, output_price: float | None
) -> dict[str, int | float]:
    """What the replies in `raw` (rows of raw.jsonl) took, as `spent` has it, and `empty`: those without a prompt."""
    empty = sum(not parse_reply(row["reply"], row["finish_reason"]) for row in raw)
    took = spent(raw, input_price, output_price)
    return {"requests": took.pop("requests"), "empty": empty, **took}


def spent(
    raw: Sequence[Mapping[str, Any]], input_price: float | None, output_price: float | None
) -> dict[str, int | float]:
    """`requests`, `prompt_tokens`, `completion_tokens` and `estimated_cost` of replies, rows of the store.

    Prices are per million tokens. What the server did not report for every reply as a count, or has no price, is
    left out.
    """
    took: dict[str, int | float] = {"requests": len(raw)}
    usages = [usage if isinstance(usage := row.get("usage"), dict) else {} for row in raw]
    for name in ("prompt_tokens", "completion_tokens"):
        tokens = [usage.get(name) for usage in usages]
        if all(type(number) is int and 0 <= number < MOST for number in tokens):
            took[name] = sum(tokens)
    if {"prompt_tokens", "completion_tokens"} <= set(took) and None not in (input_price, output_price):
        paid = took["prompt_tokens"] * input_price + took["completion_tokens"] * output_price
        took["estimated_cost"] = round(paid / 1e6, 6)
    return took


def _request(skill: Skill, pool: list[str], seed: int, index: int, n: int, examples: int) -> Request:
    """Request `index`, its examples and its own seed drawn from the run's."""
    key = f"{seed}:{skill.name}:{index}"
    shown = Random(key).sample(pool, examples)
    as_list, as_json = (request_text(skill, shown, n, reply) for reply in ("list", "json"))
    return Request(index, as_list, request_seed(key), n, as_json)
