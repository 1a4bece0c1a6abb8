"""Let a judge score the training images of every prompt, for `picks` to choose by.

    python -m stages.rate oracle images/count
    python -m stages.rate oracle drawn/round2

reads   data/<source>/                      images and the prompts they were drawn from
        data/questions/<skill>/             the prompts' questions; of drawn ones they lie beside the images
        models/judges/<judge>/              the judge, one of rate.judges
writes  data/ratings/<source>/<judge>.jsonl     file_name, id, k, score on the judge's own scale; null where it has none
        metrics/rate/<source>/<judge>.json      images, prompts, questions that were asked; the mean score of all images
                                                and of every prompt's best one; how unlike a prompt's images are;
                                                the tokens, where a server told of them

A judge that answers questions scores the share of them that an image gets right, by DSG's rule; one that is the model
itself (kind multimodal) has the LoRA that drew the images, and scores them by the margins of its answers.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from selma.ground.drawer import read_drawer
from selma.ground.errors import UserError
from selma.ground.files import write_json, write_jsonl
from selma.ground.items import load_items
from selma.ground.pairs import read_training
from selma.judging.kept import Kept, tokens_of
from selma.picking.rating import PLACES, diversity, item_of, rated
from selma.picking.shots import ratings
from selma.prompts.training import FILE
from selma.rewards.judged import open_judges, scorable
from selma.runtime import stage, work
from selma.runtime.params import load_params
from selma.runtime.places import DRAWN, QUESTIONS


def main(judge: str, source: str) -> None:
    params = load_params()
    if judge not in params.rate.judges:
        raise UserError(
            f"rate.judges: no judge {judge!r} in params.yaml; allowed: {', '.join(params.rate.judges) or 'none'}"
        )
    pairs = read_training(Path("data") / source)
    items = {item.id: item for item in load_items(_prompts(source))}
    asked = list({pair.id: item_of(pair, items) for pair in pairs}.values())
    scored = scorable(judge, asked)
    able = {item.id for item in scored}
    if without := [item.id for item in asked if item.id not in able]:
        which = f"{len(without)} of {len(asked)} prompts have no questions for judge {judge} (first: {without[0]})"
        print(f"warning: {source}: {which}; no row of `picks` takes their images")
    drawer = read_drawer(Path("data") / source).lora
    runtime = params.runtime
    (opened,) = open_judges([judge], scored, runtime.device, runtime.dtype, params.judge.batch, drawer)
    with work.folder(stage.name()) as folder:
        # Scores are on disk as they come: a run that is stopped and restarted judges few images twice.
        kept = Kept(folder / "kept.jsonl", ("id", "k"))
        shown = [pair for pair in pairs if pair.id in able]
        done = {pair for pair in shown if (pair.id, pair.k) in kept}
        came = kept.keep(rated(opened, shown, items, done.__contains__))
        for _ in stage.progress(came, len(shown) - len(done), f"rate {source} {judge}"):
            pass
        rows = [{"file_name": pair.file.name, **kept[pair.id, pair.k]} for pair in shown]
        best: dict[str, float] = {}
        for row in rows:
            best[row["id"]] = max(best.get(row["id"], row["score"]), row["score"])
        metrics = {
            "images": len(rows),
            "prompts": len(best),
            "questions": sum(opened.questions(items[pair.id]) for pair in shown),
            "mean": round(fmean(row["score"] for row in rows), PLACES),
            "best": round(fmean(best.values()), PLACES),
            "diversity": diversity(shown),
            **tokens_of(rows),
        }
        out = folder / f"{judge}.jsonl"
        others = [pair for pair in pairs if pair.id not in able]
        rows += [{"file_name": pair.file.name, "id": pair.id, "k": pair.k, "score": None} for pair in others]
        write_jsonl(out, rows)
        write_json(folder / "metrics.json", metrics)
        work.publish_all(
            {
                folder / "metrics.json": Path("metrics/rate") / source / f"{judge}.json",
                out: ratings(Path("data") / source, judge),
            }
        )


def _prompts(source: str) -> Path:
    """The file of the prompts that a source's images were drawn of, with their questions."""
    kind, _, name = source.partition("/")
    if kind not in ("images", "drawn") or not name:
        raise UserError(f"rate: no source {source!r}; allowed: images/<skill> and drawn/<row of `draws`>")
    return (Path(QUESTIONS) if kind == "images" else Path(DRAWN)) / name / FILE


if __name__ == "__main__":
    stage.run(main)
