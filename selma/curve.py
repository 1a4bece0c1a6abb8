"""Score the compared models at several guidance scales, on the dev and the test split.

    python -m selma.curve            resumable; `make study` runs it, too

Settings are chosen on dev, claims made on test. One image per prompt, from the weights that the last `dvc repro` left:
no checkpoint is selected again (`python -m selma.experiments guidance` does that).

reads   models/, data/benchmarks/<the leading one>/, models/judges/<judge.name>/
writes  metrics/study/guidance.csv    split, guidance, model, mean, low, high; and rows "<first> over <second>"
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from selma.backbones.loading import open_model
from selma.ground.files import folder_digest, read_json, write_csv, write_json
from selma.ground.items import load_split, splits
from selma.judging.judge import load_judge
from selma.runtime import stage
from selma.runtime.params import Params, load_params
from selma.runtime.places import BACKBONES, JUDGES
from selma.scoring import exam
from selma.scoring.scores import item_scores
from selma.scoring.summary import gains, scores

OUT = Path("metrics/study/guidance.csv")
KEPT = Path(".work/curve")  # every point's scores by item, so that a second call redraws nothing


def main() -> None:
    params = load_params()
    lead = Path("data/benchmarks") / params.evaluate.benchmarks[0]
    names = list(dict.fromkeys(name for pair in params.compare for name in reversed(pair)))
    points = [
        (split, guidance)
        for split in splits(lead)
        for guidance in exam.guidance_scales(params.evaluate.drawing.guidance)
    ]
    kept = KEPT / _version(params, lead, names)
    rows = []
    for split, guidance in stage.progress(points, len(points), "curve"):
        means = {name: _scores(params, name, lead, split, guidance, kept) for name in names}
        rows += [{"split": split, "guidance": guidance, **row} for row in _rows(means, params)]
    write_csv(OUT, rows, list(rows[0]))
    print(f"wrote {OUT}")


def _rows(means: Mapping[str, Mapping[str, float]], params: Params) -> list[dict[str, Any]]:
    bootstrap = {"resamples": params.evaluate.bootstrap, "seed": params.seed}
    found = scores(means, **bootstrap) | gains(means, params.compare, **bootstrap)
    return [{"model": name, **estimate} for name, estimate in found.items()]


def _scores(
    params: Params, model: str, lead: Path, split: str, guidance: float, kept: Path
) -> dict[str, float]:
    """A model's score of every item at one guidance scale; scores from an earlier call are reused."""
    path = kept / f"{split}-{guidance:g}-{model}.json"
    if not path.exists():
        row, runtime = params.models[model], params.runtime
        backbone = Path(BACKBONES) / params.expert.backbone
        items = load_split(lead, split)
        drawn = exam.draw(
            open_model(Path(row.weights), backbone, runtime.device, runtime.dtype),
            items,
            replace(params.evaluate.drawing, guidance=guidance),
            images=1,
            seed=params.seed,
            method=row.guidance,
            options=row.options,
        )
        judge = load_judge(params.judge.name, runtime.device, runtime.dtype)
        answered = exam.faithfulness(judge, items, drawn, where=f"{model}, guidance {guidance:g}")
        write_json(path, item_scores(answered))
    return read_json(path)


def _version(params: Params, lead: Path, names: list[str]) -> str:
    """Hash of everything that the curve's scores depend on, except code."""
    rows = [params.models[name] for name in names]
    backbone, judge = Path(BACKBONES) / params.expert.backbone, JUDGES / params.judge.name
    folders = (lead, backbone, judge, *(Path(row.weights) for row in rows))
    inputs = [folder_digest(path) for path in folders]
    settings = (
        f"{params.seed} {params.evaluate} {params.judge} {params.runtime} {params.expert.backbone} {rows}"
    )
    return hashlib.sha256("\0".join([settings, *inputs]).encode()).hexdigest()[:10]


if __name__ == "__main__":
    if sys.argv[1:]:
        print("usage: python -m selma.curve", file=sys.stderr)
        sys.exit(2)
    stage.run(main)
