"""Score an expert's checkpoints on dev prompts and keep one: the best (ties: the earlier), or the last.

    python -m stages.select count

reads   models/checkpoints/<name>/step-*/   LoRA folders
        models/backbones/<expert.backbone>/
        data/benchmarks/<the leading one>/   the dev split; its score is faithfulness
        data/filtered/<skill>/dev.jsonl         instead, where filter.dev holds prompts out; theirs is VQAScore
writes  models/experts/<name>/              the chosen checkpoint
        metrics/select/<name>.json          policy, chosen step, dev score of every step

The paper picks checkpoints on its test benchmark; here that choice never sees the test split.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from selma.experts.checkpoints import checkpoints
from selma.ground.files import read_json, write_json
from selma.ground.items import load_split
from selma.judging.judge import load_judge
from selma.runtime import stage, work
from selma.runtime.params import Params, load_params
from selma.runtime.places import BACKBONES
from selma.scoring import exam
from selma.scoring.dev import held_out
from selma.scoring.scores import macro


def main(name: str) -> None:
    params = load_params()
    found = checkpoints(Path("models/checkpoints") / name)
    with work.folder(stage.name()) as folder:
        best = params.select.policy == "best"
        scores = _score(found, _scorer(params), folder / "scores.json", name) if best else {}
        chosen = max(scores, key=lambda step: (scores[step], -step)) if best else max(found)

        out = folder / "expert"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(found[chosen], out)
        rounded = {str(step): round(score, 4) for step, score in scores.items()}
        metrics = {"policy": params.select.policy, "chosen": chosen, "scores": rounded}
        write_json(folder / "metrics.json", metrics)
        work.publish_all(
            {
                folder / "metrics.json": Path("metrics/select") / f"{name}.json",
                out: Path("models/experts") / name,
            }
        )


def _score(
    found: dict[int, Path], scorer: Callable[[Path], float], kept: Path, name: str
) -> dict[int, float]:
    """Score of every checkpoint; `kept` holds those that a stopped run has already scored."""
    scores = {int(step): score for step, score in read_json(kept).items()} if kept.exists() else {}
    for step, checkpoint in stage.progress(found.items(), len(found), f"select {name}"):
        if step not in scores:
            scores[step] = scorer(checkpoint)
            write_json(kept, scores)
    return dict(sorted(scores.items()))


def _scorer(params: Params) -> Callable[[Path], float]:
    """A function from a checkpoint to its dev score; every checkpoint draws from the same noise."""
    from selma.backbones.loading import load_pipeline  # torch: policy `last` does without it

    if params.filter.dev:
        items = held_out(Path("data/filtered"), params.skills)
    else:
        items = load_split(Path("data/benchmarks") / params.evaluate.benchmarks[0], "dev")
    backbone = Path(BACKBONES) / params.expert.backbone
    device, dtype = params.runtime.device, params.runtime.dtype
    judge = load_judge(params.judge.name, device, dtype)

    def score(checkpoint: Path) -> float:
        # Loaded again each time, as in the sample stage: cheap compared to drawing, and identical to the bit.
        pipe = load_pipeline(backbone, device, dtype, lora=checkpoint)
        images, seed = params.select.images_per_prompt, params.seed
        drawn = exam.draw(pipe, items, params.evaluate.drawing, images=images, seed=seed)
        if params.filter.dev:
            return exam.vqa_score(judge, drawn)
        return macro(exam.faithfulness(judge, items, drawn, where=str(checkpoint)))

    return score


if __name__ == "__main__":
    stage.run(main)
