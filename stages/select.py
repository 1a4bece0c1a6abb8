"""Score an expert's checkpoints on dev prompts and keep one: the last within the noise of the best, or the last.

    python -m stages.select count

reads   models/checkpoints/<name>/step-*/   LoRA folders
        models/backbones/<expert.backbone>/
        experts.<name>.data                  held_out.jsonl, where filter.dev holds prompts out; theirs is VQAScore
        data/benchmarks/<the leading one>/   the dev split, where none are held out; its score is faithfulness
writes  models/experts/<name>/              the chosen checkpoint
        metrics/select/<name>.json          policy, chosen step, dev score of every step, its noise

`noise` is the standard error of a step's difference from the best one over prompts (selma/scoring/dev.py).
The paper picks checkpoints on its test benchmark; here that choice never sees the test split.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from selma.experts.checkpoints import checkpoints
from selma.ground.files import read_json, write_json
from selma.judging.judge import load_judge
from selma.runtime import stage, work
from selma.runtime.params import Params, load_params
from selma.runtime.places import BACKBONES
from selma.scoring import exam
from selma.scoring.dev import choose, dev_prompts
from selma.scoring.scores import item_scores

PLACES = 4  # of scores in the metrics


def main(name: str) -> None:
    params = load_params()
    found = checkpoints(Path("models/checkpoints") / name)
    with work.folder(stage.name()) as folder:
        best = params.select.policy == "best"
        scores = _score(found, _scorer(params, name), folder / "scores.json", name) if best else {}
        chosen, noises = choose(scores) if best else (max(found), {})

        out = folder / "expert"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(found[chosen], out)
        metrics = {
            "policy": params.select.policy,
            "chosen": chosen,
            "scores": {str(step): round(fmean(found.values()), PLACES) for step, found in scores.items()},
            "noise": {str(step): round(noise, PLACES) for step, noise in noises.items()},
        }
        kept = folder / "metrics.json"
        write_json(kept, metrics)
        work.publish_all({kept: Path(f"metrics/select/{name}.json"), out: Path("models/experts") / name})


def _score(
    found: dict[int, Path], scorer: Callable[[Path], dict[str, float]], kept: Path, name: str
) -> dict[int, dict[str, float]]:
    """Scores by checkpoint and item; `kept` holds those that a stopped run has already scored."""
    scores = {int(step): score for step, score in read_json(kept).items()} if kept.exists() else {}
    for step, checkpoint in stage.progress(found.items(), len(found), f"select {name}"):
        if step not in scores:
            scores[step] = scorer(checkpoint)
            write_json(kept, scores)
    return dict(sorted(scores.items()))


def _scorer(params: Params, name: str) -> Callable[[Path], dict[str, float]]:
    """A function from a checkpoint to its dev scores by item; every checkpoint draws from the same noise."""
    from selma.backbones.loading import load_pipeline  # torch: policy `last` does without it

    benchmark = Path("data/benchmarks") / params.evaluate.benchmarks[0]
    expert = params.experts[name]
    items, held_out = dev_prompts(Path(expert.data), benchmark, expert.skills)
    backbone = Path(BACKBONES) / params.expert.backbone
    device, dtype = params.runtime.device, params.runtime.dtype
    judge = load_judge(params.judge.name, device, dtype)

    def score(checkpoint: Path) -> dict[str, float]:
        # Loaded again each time, as in the sample stage: cheap compared to drawing, and identical to the bit.
        pipe = load_pipeline(backbone, device, dtype, lora=checkpoint)
        images, seed = params.select.images_per_prompt, params.seed
        drawn = exam.draw(pipe, items, params.evaluate.drawing, images=images, seed=seed)
        if held_out:
            return exam.vqa_scores(judge, drawn, params.judge.batch)
        answers = exam.faithfulness(judge, items, drawn, where=str(checkpoint), batch=params.judge.batch)
        return item_scores(answers)

    return score


if __name__ == "__main__":
    stage.run(main)
