"""Score an expert's checkpoints on dev prompts and keep one: the best (ties: the earlier), or the last.

    python -m stages.select count

reads   models/checkpoints/<name>/step-*/   LoRA folders
        models/backbones/<expert.backbone>/
        data/benchmarks/<evaluate.benchmark>/   the dev split; its score is faithfulness
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
from selma.ground.pairs import image_seed
from selma.judging.judge import load_judge
from selma.runtime import stage, work
from selma.runtime.params import Params, load_params
from selma.scoring import dev


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
        write_json(Path("metrics/select") / f"{name}.json", metrics)
        work.publish(out, Path("models/experts") / name)


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
    """A function from a checkpoint to its dev score; every checkpoint draws from the same noises."""
    from selma.backbones.loading import load_pipeline
    from selma.images import sampler  # torch: policy `last` does without it

    if params.filter.dev:
        items = dev.held_out(Path("data/filtered"), params.skills)
    else:
        items = load_split(Path("data/benchmarks") / params.evaluate.benchmark, "dev")
    shots = [(item, k) for item in items for k in range(params.select.images_per_prompt)]
    judge = load_judge(params.judge.name, params.runtime.device, params.runtime.dtype)

    def score(checkpoint: Path) -> float:
        # Loaded anew, as the sample stage does: cheap beside drawing, and the same to the bit.
        pipe = load_pipeline(
            Path("models/backbones") / params.expert.backbone,
            params.runtime.device,
            params.runtime.dtype,
            lora=checkpoint,
        )
        images = sampler.draw(
            pipe,
            [item.prompt for item, _ in shots],
            [image_seed(params.seed, item.id, k) for item, k in shots],
            steps=params.evaluate.steps,
            guidance=params.evaluate.guidance,
            scheduler=params.evaluate.scheduler,
            batch=params.evaluate.batch,
            size=params.evaluate.resolution,
        )
        if params.filter.dev:
            return dev.vqa_score(judge, shots, images)
        return dev.faithfulness(judge, shots, images, where=str(checkpoint))

    return score


if __name__ == "__main__":
    stage.run(main)
