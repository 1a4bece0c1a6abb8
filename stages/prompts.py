"""Ask the LLM for prompts that teach one skill (SELMA, section 3.1).

    python -m stages.prompts count

reads   data/skills/<world>/<skill>.yaml   description, rules, word limit, three seed prompts
writes  data/prompts/<skill>/              prompts.jsonl {id, text, request, repeats}, in order of arrival
                                           raw.jsonl {index, seed, request, reply, finish_reason}

`request` is the index of the request that brought the text first, `repeats` how often it came again.
Texts are unique; near-duplicates are the filter's business. Killed and started again, the stage asks only
what has no answer yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

from selma import records, stage, work
from selma.errors import UserError
from selma.llm import Provider, RecordedProvider, Request, load_provider, parse_list
from selma.params import load_params
from selma.skills import Skill, load_skill, request_text

PATIENCE = 5  # rounds in a row without a single new prompt before giving up


def main(name: str) -> None:
    params = load_params()
    skill = load_skill(params.prompts.skills, name)
    provider = load_provider(params.llm.provider, params.llm.concurrency)

    with work.folder(stage.name()) as folder:
        recorded = RecordedProvider(provider, folder / "replies.jsonl")
        arriving = collect(
            skill,
            recorded,
            seed=params.seed,
            n=params.prompts.per_request,
            examples=params.prompts.examples,
            requests=params.prompts.round,
        )
        wanted = params.prompts.candidates
        rows = list(stage.progress(islice(arriving, wanted), total=wanted, label=f"prompts: {name}"))
        records.write_jsonl(folder / "out" / "prompts.jsonl", rows)
        records.write_jsonl(folder / "out" / "raw.jsonl", recorded.rows)
        work.publish(folder / "out", Path("data/prompts") / name)


def collect(
    skill: Skill, provider: Provider, *, seed: int, n: int, examples: int, requests: int
) -> Iterator[dict[str, Any]]:
    """New prompts as they arrive, without end: rows of prompts.jsonl.

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
            for text in parse_list(reply.text, reply.finish_reason):
                if text in rows:
                    rows[text]["repeats"] += 1
                elif text not in skill.seeds:
                    id = records.prompt_id(skill.name, text)
                    rows[text] = {"id": id, "text": text, "request": reply.index, "repeats": 0}
                    new += 1
                    yield rows[text]
        barren = 0 if new else barren + 1
        if barren == PATIENCE:
            raise UserError(
                f"skill {skill.name}: {PATIENCE} rounds of requests brought nothing new after "
                f"{len(rows)} prompts; lower prompts.candidates, raise prompts.round, or widen its rules"
            )


def _request(skill: Skill, pool: list[str], seed: int, index: int, n: int, examples: int) -> Request:
    """Request `index`, its examples and its own seed drawn from the run's."""
    key = f"{seed}:{skill.name}:{index}"
    shown = Random(key).sample(pool, examples)
    request_seed = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) >> 1
    return Request(index, request_text(skill, shown, n), request_seed, n)


if __name__ == "__main__":
    stage.run(main)
