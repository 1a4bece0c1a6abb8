"""Ask the LLM for prompts that teach one skill (SELMA, section 3.1).

    python -m stages.prompts count

reads   data/skills/<world>/<skill>.yaml   description, rules, word limit, three seed prompts
writes  data/prompts/<skill>/              prompts.jsonl {id, text, request, repeats}, in order of arrival
                                           raw.jsonl {index, seed, request, reply, finish_reason, and what the
                                           server said of it: id, model, usage}
        metrics/prompts/<skill>.json       requests, replies without a prompt, candidates, tokens, their cost

`request` is the index of the request that brought the text first, `repeats` how often it came again.
Texts are unique; near-duplicates are the filter's business. Killed and started again, the stage asks only
what has no answer yet. A server's replies stay in .llm/<skill>.jsonl, so that no later run pays for them again.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from selma.ground.files import write_json, write_jsonl
from selma.prompts.collecting import collect, cost
from selma.prompts.provider import Settings, load_provider
from selma.prompts.skills import load_skill
from selma.prompts.store import keep_replies
from selma.runtime import stage, work
from selma.runtime.params import load_params


def main(name: str) -> None:
    params = load_params()
    skill = load_skill(params.prompts.skills, name)
    settings = Settings(
        base_url=params.llm.base_url,
        model=params.llm.model,
        api=params.llm.api,
        temperature=params.llm.temperature,
        top_p=params.llm.top_p,
        max_tokens=params.llm.max_tokens,
        key_env=params.llm.key_env,
        concurrency=params.llm.concurrency,
        timeout=params.llm.timeout,
        retries=params.llm.retries,
        max_requests=params.llm.max_requests,
    )
    provider = load_provider(params.llm.provider, settings)

    with work.folder(stage.name()) as folder:
        recorded = keep_replies(provider, name, folder)
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
        write_jsonl(folder / "out" / "prompts.jsonl", rows)
        write_jsonl(folder / "out" / "raw.jsonl", recorded.rows)
        took = cost(recorded.rows, params.llm.input_price, params.llm.output_price)
        work.publish(folder / "out", Path("data/prompts") / name)
        write_json(Path(f"metrics/prompts/{name}.json"), took | {"candidates": len(rows)})
    if recorded.reused:
        print(f"{recorded.reused} of {took['requests']} replies were on file")


if __name__ == "__main__":
    stage.run(main)
