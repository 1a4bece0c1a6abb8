"""Keep the prompts that are short enough, unlike each other and unlike any exam prompt (SELMA, section 3.1).

    python -m stages.filter count

reads   data/prompts/<skill>/           prompts.jsonl, in order of arrival
        data/benchmarks/<name>/         those of evaluate.benchmarks, every split: no prompt near one is trained on
        data/skills/<world>/<skill>.yaml   word limit; the seeds are compared with, never trained on
writes  data/filtered/<skill>/          prompts.jsonl {id, text}: the first `filter.keep`, to train on
                                        dev.jsonl {id, text}: `filter.dev` more, spread evenly among them
                                        dropped.jsonl {id, text, reason, neighbour, rouge_l}
        metrics/filter/<skill>.json     candidates, kept, dropped by reason, unused (came after the last kept),
                                        unicode_tokens (judged by other than rouge_score's tokens) unless 0
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

from selma.ground.errors import UserError
from selma.ground.files import write_json, write_jsonl
from selma.ground.items import exam_prompts
from selma.ground.pairs import read_prompts
from selma.prompts.diversity import DiversityFilter, Reason
from selma.prompts.skills import load_skill
from selma.prompts.tokens import is_plain
from selma.runtime import stage, work
from selma.runtime.params import load_params


def main(name: str) -> None:
    params = load_params()
    skill = load_skill(params.prompts.skills, name)
    source = Path("data/prompts") / name / "prompts.jsonl"
    candidates = read_prompts(source)
    exam = exam_prompts(Path("data/benchmarks") / benchmark for benchmark in params.evaluate.benchmarks)

    diversity = DiversityFilter(params.filter.rouge_l, skill.max_words, exam, skill.seeds)
    keep, dev = params.filter.keep, params.filter.dev
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    verdicts = diversity.judge(row["text"] for row in candidates)
    for row, verdict in zip(candidates, stage.progress(verdicts, len(candidates)), strict=False):
        if verdict.kept:
            kept.append(row)
        else:
            near = {"neighbour": verdict.neighbour, "rouge_l": verdict.rouge_l}
            dropped.append({**row, "reason": verdict.reason, **near})
        if len(kept) == keep + dev:
            break

    reasons = {reason: sum(row["reason"] == reason for row in dropped) for reason in get_args(Reason)}
    if len(kept) < keep + dev:
        wanted = f"filter.keep ({keep})" + (f" and filter.dev ({dev})" if dev else "")
        counted = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        raise UserError(
            f"{source}: {len(kept)} of {len(candidates)} prompts pass, {keep + dev - len(kept)} short of "
            f"{wanted}; dropped: {counted}; raise prompts.candidates, or filter.rouge_l if most are similar"
        )

    held = {(2 * i + 1) * len(kept) // (2 * dev) for i in range(dev)}
    with work.folder(stage.name()) as folder:
        shutil.rmtree(folder / "out", ignore_errors=True)  # incomplete, if a run was stopped here
        trained_on = [row for i, row in enumerate(kept) if i not in held]
        write_jsonl(folder / "out" / "prompts.jsonl", trained_on)
        if dev:
            write_jsonl(folder / "out" / "dev.jsonl", [kept[i] for i in sorted(held)])
        write_jsonl(folder / "out" / "dropped.jsonl", dropped)
        unused = len(candidates) - len(kept) - len(dropped)
        metrics = {
            "candidates": len(candidates),
            "kept": len(trained_on),
            "dropped": reasons,
            "unused": unused,
        }
        foreign = sum(not is_plain(row["text"]) for row in candidates[: len(kept) + len(dropped)])
        metrics |= {key: n for key, n in {"dev": dev, "unicode_tokens": foreign}.items() if n}
        write_json(folder / "metrics.json", metrics)
        work.publish_all(
            {
                folder / "metrics.json": Path("metrics/filter") / f"{name}.json",
                folder / "out": Path("data/filtered") / name,
            }
        )


if __name__ == "__main__":
    stage.run(main)
