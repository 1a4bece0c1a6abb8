"""Score the training images of every prompt by the judges of rate.judges, for `picks` to choose by.

    python -m stages.rate images/count
    python -m stages.rate drawn/round2

reads   data/<source>/              images and the prompts they were drawn from
        data/questions/<skill>/     their questions; of drawn ones draws.<name>.prompts
        models/judges/              the judges
writes  data/ratings/<source>/      ratings.jsonl {file_name, id, k, scores: {judge: score}}
        metrics/rate/<source>.json  images, prompts; where they are scored the questions that judges were asked, how
                                    unlike a prompt's images are, and each judge's mean, of all images and of every
                                    prompt's best one

A judge that answers questions scores the share of them that an image gets right, by DSG's rule. Without judges nothing
is opened, and scores are empty.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import write_json, write_jsonl
from selma.ground.pairs import read_training
from selma.judging.kept import Kept
from selma.picking.rating import PLACES, diversity, item_of, rated
from selma.picking.shots import FILE, RATINGS
from selma.prompts.training import training_items
from selma.rewards.judged import open_judges
from selma.runtime import stage, work
from selma.runtime.params import Params, load_params
from selma.runtime.places import QUESTIONS


def main(source: str) -> None:
    params = load_params()
    prompts = _prompts(params, source)
    pairs = read_training(Path("data") / source)
    scores: dict[tuple[str, int], dict[str, float]] = {(pair.id, pair.k): {} for pair in pairs}
    metrics: dict[str, Any] = {"images": len(pairs), "prompts": len({pair.id for pair in pairs})}
    with work.folder(stage.name()) as folder:
        if params.rate.judges:
            items = {item.id: item for item in training_items(prompts, params.skills)}
            asked = list({pair.id: item_of(pair, items) for pair in pairs}.values())
            device, dtype = params.runtime.device, params.runtime.dtype
            metrics["questions"] = 0
            kept = Kept(folder / "kept.jsonl", ("judge", "id", "k"))
            for judge in open_judges(params.rate.judges, asked, device, dtype, params.judge.batch):
                done = {pair for pair in pairs if (judge.name, pair.id, pair.k) in kept}
                came = kept.keep(rated(judge, pairs, items, done.__contains__))
                for _ in stage.progress(came, len(pairs) - len(done), f"rate {source} {judge.name}"):
                    pass
                metrics["questions"] += sum(judge.questions(items[pair.id]) for pair in pairs)
                for key, found in scores.items():
                    found[judge.name] = kept[judge.name, *key]["score"]
            metrics["diversity"] = diversity(pairs)
            metrics["scores"] = {name: _summary(scores, name) for name in params.rate.judges}
        rows = [
            {"file_name": pair.file.name, "id": pair.id, "k": pair.k, "scores": scores[pair.id, pair.k]}
            for pair in pairs
        ]
        write_jsonl(folder / "out" / FILE, rows)
        write_json(folder / "metrics.json", metrics)
        work.publish_all(
            {folder / "metrics.json": Path(f"metrics/rate/{source}.json"), folder / "out": RATINGS / source}
        )


def _prompts(params: Params, source: str) -> Path:
    """Where the items of a source's images are."""
    kind, _, name = source.partition("/")
    if kind == "images" and name in params.skills:
        return Path(QUESTIONS) / name
    if kind == "drawn" and name in params.draws:
        return Path(params.draws[name].prompts)
    allowed = [f"images/{skill}" for skill in params.skills] + [f"drawn/{name}" for name in params.draws]
    raise UserError(f"rate: no source {source!r}; allowed: {', '.join(allowed)}")


def _summary(scores: dict[tuple[str, int], dict[str, float]], judge: str) -> dict[str, float]:
    best: dict[str, float] = {}
    for (id, _), found in scores.items():
        best[id] = max(best.get(id, found[judge]), found[judge])
    mean = fmean(found[judge] for found in scores.values())
    return {"mean": round(mean, PLACES), "best": round(fmean(best.values()), PLACES)}


if __name__ == "__main__":
    stage.run(main)
