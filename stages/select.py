"""Score an expert's checkpoints on the dev split and keep one: the best (ties: the earlier), or the last.

    python -m stages.select count

reads   models/checkpoints/<name>/step-*/   LoRA folders
        models/backbones/<expert.backbone>/, data/benchmarks/<evaluate.benchmark>/
writes  models/experts/<name>/              the chosen checkpoint
        metrics/select/<name>.json          policy, chosen step, dev score of every step

The paper picks checkpoints on its test benchmark; here that choice never sees the test split.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from selma import benchmarks, records, scoring, stage, work
from selma.errors import UserError
from selma.judges import ask, load_judge
from selma.params import Params, load_params


def main(name: str) -> None:
    params = load_params()
    checkpoints = _checkpoints(Path("models/checkpoints") / name)
    with work.folder(stage.name()) as folder:
        best = params.select.policy == "best"
        scores = _score(checkpoints, _scorer(params), folder / "scores.json", name) if best else {}
        chosen = max(scores, key=lambda step: (scores[step], -step)) if best else max(checkpoints)

        out = folder / "expert"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(checkpoints[chosen], out)
        rounded = {str(step): round(score, 4) for step, score in scores.items()}
        metrics = {"policy": params.select.policy, "chosen": chosen, "scores": rounded}
        records.write_json(Path("metrics/select") / f"{name}.json", metrics)
        work.publish(out, Path("models/experts") / name)


def _checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoint folders by step, in the order of steps."""
    steps = {path: path.name.removeprefix("step-") for path in folder.glob("step-*")}
    found = {int(step): path for path, step in steps.items() if step.isdecimal()}
    if not found:
        raise UserError(f"{folder} holds no checkpoints (step-*); the expert stage writes them")
    return dict(sorted(found.items()))


def _score(
    checkpoints: dict[int, Path], scorer: Callable[[Path], float], kept: Path, name: str
) -> dict[int, float]:
    """Score of every checkpoint; `kept` holds those that a stopped run has already scored."""
    scores = {int(step): score for step, score in records.read_json(kept).items()} if kept.exists() else {}
    for step, checkpoint in stage.progress(checkpoints.items(), len(checkpoints), f"select {name}"):
        if step not in scores:
            scores[step] = scorer(checkpoint)
            records.write_json(kept, scores)
    return dict(sorted(scores.items()))


def _scorer(params: Params) -> Callable[[Path], float]:
    """A function from a checkpoint to its dev score; every checkpoint draws from the same noises."""
    from selma import backbones, sampler  # torch: policy `last` does without it

    items = benchmarks.load_split(Path("data/benchmarks") / params.evaluate.benchmark, "dev")
    shots = [(item, k) for item in items for k in range(params.select.images_per_prompt)]
    judge = load_judge(params.judge.name)

    def score(checkpoint: Path) -> float:
        # Loaded anew, as the sample stage does: cheap beside drawing, and the same to the bit.
        pipe = backbones.load_pipeline(
            Path("models/backbones") / params.expert.backbone,
            backbones.pick_device(params.runtime.device),
            params.runtime.dtype,
            lora=checkpoint,
        )
        images = sampler.draw(
            pipe,
            [item.prompt for item, _ in shots],
            [records.image_seed(params.seed, item.id, k) for item, k in shots],
            steps=params.evaluate.steps,
            guidance=params.evaluate.guidance,
            scheduler=params.evaluate.scheduler,
            batch=params.evaluate.batch,
        )
        rows = [row for i, image in images for row in ask(judge, shots[i][0], image, shots[i][1])]
        return scoring.macro(scoring.score_answers(items, rows, where=str(checkpoint)))

    return score


if __name__ == "__main__":
    stage.run(main)
