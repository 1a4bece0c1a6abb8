"""Asking an LLM for every prompt's questions, once each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selma.ground.errors import UserError
from selma.ground.items import Question
from selma.ground.pairs import Prompt
from selma.prompts.provider import Provider, Reply, Request
from selma.prompts.questions import QUESTIONS, questions_text, read_questions
from selma.prompts.request import request_seed

AGAIN = 3  # times that a prompt is asked about again, with another seed, after a reply of no use
FIRST = (
    20  # prompts that are seen through before the others are asked about: a server of no use is noticed early
)


def write_questions(
    prompts: Sequence[Prompt], provider: Provider, *, skill: str, seed: int, done: Callable[[], None]
) -> dict[str, tuple[Question, ...]]:
    """Each prompt's questions, by its id; none for a prompt that got only replies of no use.

    `done` is called after each prompt's first reply. Raises UserError if more than half of the first prompts, or of
    all, have none.
    """
    found: dict[str, tuple[Question, ...]] = {}
    asked = 0
    last = ""
    for part in (prompts[:FIRST], prompts[FIRST:]):
        todo = list(part)
        for attempt in range(1 + AGAIN):
            requests = [_request(one, seed, attempt, asked + place) for place, one in enumerate(todo)]
            replies = provider.complete(requests, None if attempt else lambda reply: done())
            asked += len(requests)
            useless = []
            for one, reply in zip(todo, replies, strict=True):
                try:
                    found[one["id"]] = read_questions(reply.text, reply.finish_reason)
                except ValueError as error:
                    useless.append(one)
                    last = f"{error} ({_show(reply)})"
            todo = useless
        found |= {one["id"]: () for one in todo}
        without = sum(not questions for questions in found.values())
        if 2 * without > len(found):
            raise UserError(
                f"skill {skill}: the LLM wrote no usable questions for {without} of {len(found)} prompts, each "
                f"asked {1 + AGAIN} times; the last such reply {last}; take another llm.model, or set questions.source "
                "to none"
            )
    return {one["id"]: found[one["id"]] for one in prompts}


def _show(reply: Reply) -> str:
    return f"it ended by {reply.finish_reason[:40]!r} and begins {' '.join(reply.text.split())[:80]!r}"


def _request(prompt: Prompt, seed: int, attempt: int, index: int) -> Request:
    """Its seed is the prompt's own: another prompt more or less asks for none of the others again."""
    text = questions_text(prompt["text"])
    own = request_seed(f"{seed}:questions:{prompt['id']}:{attempt}")
    return Request(index, text, own, n=0, as_json=text, form=QUESTIONS, placed=False)
