"""Ask the LLM for prompts that teach one skill (SELMA, section 3.1).

    python -m stages.prompts count

reads   data/skills/<world>/<skill>.yaml   description, rules, word limit, three seed prompts
writes  data/prompts/<skill>/              prompts.jsonl {id, text, request, repeats}, in order of arrival
                                           raw.jsonl {index, seed, request, reply, finish_reason, and what the
                                           server said about it: id, model, usage}
        metrics/prompts/<skill>.json       requests, replies without a prompt, candidates, tokens, their cost

`request` is the index of the request that returned the text first, `repeats` how often it was returned again.
Texts are unique; near-duplicates are left to the filter. Killed and started again, the stage asks only
what has no answer yet. A server's replies stay in .llm/<skill>.jsonl, so that no later run pays for them again.
"""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

from selma.ground.files import write_json, write_jsonl
from selma.prompts.collecting import collect, cost
from selma.prompts.provider import load_provider
from selma.prompts.skills import load_skill
from selma.prompts.store import keep_replies
from selma.runtime import stage, work
from selma.runtime.checks import warn
from selma.runtime.params import load_params


def main(name: str) -> None:
    params = load_params()
    warn(params, name)
    skill = load_skill(params.prompts.skills, name)
    provider = load_provider(params.llm)

    with work.folder(stage.name()) as folder:
        shutil.rmtree(folder / "out", ignore_errors=True)  # incomplete, if a run was stopped here
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
        write_json(folder / "metrics.json", took | {"candidates": len(rows)})
        work.publish_all(
            {
                folder / "metrics.json": Path(f"metrics/prompts/{name}.json"),
                folder / "out": Path("data/prompts") / name,
            }
        )
    if recorded.reused:
        print(f"{recorded.reused} of {took['requests']} replies were reused from an earlier run")


if __name__ == "__main__":
    stage.run(main)
