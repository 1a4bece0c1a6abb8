"""Ask the LLM, once per kept prompt, for the questions by which a judge can score its images (DSG, arXiv 2310.18235).

    python -m stages.questions count

reads   data/filtered/<skill>/           prompts.jsonl
writes  data/questions/<skill>/          prompts.jsonl, an item of a benchmark's schema for each prompt, in its order
        metrics/questions/<skill>.json   prompts, questions, prompts without usable questions, requests, tokens, their
                                         cost

With questions.source none nobody is asked, and the items have no questions: for judges that need none. Replies are
kept as those of the stage `prompts` are, a server's in .llm/<skill>.questions.jsonl.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.ground.items import Item, write_items
from selma.ground.pairs import read_prompts
from selma.prompts.collecting import spent
from selma.prompts.provider import load_provider
from selma.prompts.questioning import write_questions
from selma.prompts.store import keep_replies
from selma.runtime import stage, work
from selma.runtime.params import load_params


def main(name: str) -> None:
    params = load_params()
    source = Path("data/filtered") / name / "prompts.jsonl"
    prompts = read_prompts(source)
    if not prompts:
        raise UserError(f"{source}: has no prompts; raise filter.keep")
    asks = params.questions.source == "llm"
    provider = load_provider(params.llm) if asks else None
    # Before the first request is paid for; the embedded provider, which has no identity, has no limit either.
    if provider and provider.identity is not None and len(prompts) > params.llm.max_requests:
        raise UserError(
            f"llm.max_requests is {params.llm.max_requests}, but questions.source is llm, which asks once for each of "
            f"the {len(prompts)} prompts in {source}; raise it, or set questions.source to none"
        )

    with work.folder(stage.name()) as folder:
        shutil.rmtree(folder / "out", ignore_errors=True)  # incomplete, if a run was stopped here
        asked, took = {}, {"requests": 0}
        if provider:
            recorded = keep_replies(provider, f"{name}.questions", folder)
            with stage.bar(len(prompts), label=f"questions: {name}", unit="replies") as advance:
                asked = write_questions(
                    prompts, recorded, skill=name, seed=params.seed, done=lambda: advance(1)
                )
            took = spent(recorded.rows, params.llm.input_price, params.llm.output_price)
        items = [
            Item(prompt["id"], prompt["text"], name, "filter", asked.get(prompt["id"], ()))
            for prompt in prompts
        ]
        write_items(folder / "out" / "prompts.jsonl", items)
        counts = {
            "prompts": len(items),
            "questions": sum(len(item.questions) for item in items),
            "without": sum(not item.questions for item in items),
        }
        write_json(folder / "metrics.json", counts | took)
        work.publish_all(
            {
                folder / "metrics.json": Path(f"metrics/questions/{name}.json"),
                folder / "out": Path("data/questions") / name,
            }
        )
    if asks and recorded.reused:
        print(f"{recorded.reused} of {took['requests']} replies were reused from an earlier run")


if __name__ == "__main__":
    stage.run(main)
