"""Score the compared models at several guidance scales, on the dev and the test split.

    python -m selma.curve            resumable; `make study` runs it, too

Settings are chosen on dev, claims made on test. One image per prompt, from the weights that the last `dvc repro` left:
no checkpoint is selected again (`python -m selma.experiments guidance` does that).

reads   models/, data/benchmarks/<the leading one>/, models/judges/<judge.name>/
writes  metrics/study/guidance.csv    split, guidance, model, mean, low, high; and rows "<first> over <second>"
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selma.ground.files import write_csv
from selma.runtime import stage
from selma.runtime.params import Params, load_params
from selma.scoring import exam
from selma.scoring.summary import gains, scores
from selma.studies.points import Examiner, drawn_by

OUT = Path("metrics/study/guidance.csv")
KEPT = Path(".work/curve")  # every point's scores by item, so that a second call redraws nothing


def main() -> None:
    params = load_params()
    names = list(dict.fromkeys(name for pair in params.compare for name in reversed(pair)))
    examiner = Examiner(params, Path("data/benchmarks") / params.evaluate.benchmarks[0], 1, KEPT)
    scales = exam.guidance_scales(params.evaluate.drawing.guidance)
    points = [(name, split, scale) for name in names for split in examiner.items for scale in scales]
    found = {
        (name, split, scale): examiner.scores(drawn_by(params.models[name]), split, scale, params.seed)[0]
        for name, split, scale in stage.progress(points, len(points), "curve")
    }
    rows = []
    for split in examiner.items:
        for scale in scales:
            means = {name: found[name, split, scale] for name in names}
            rows += [{"split": split, "guidance": scale, **row} for row in _rows(means, params)]
    write_csv(OUT, rows, list(rows[0]))
    print(f"wrote {OUT}")


def _rows(means: Mapping[str, Mapping[str, float]], params: Params) -> list[dict[str, Any]]:
    bootstrap = {"resamples": params.evaluate.bootstrap, "seed": params.seed}
    found = scores(means, **bootstrap) | gains(means, params.compare, **bootstrap)
    return [{"model": name, **estimate} for name, estimate in found.items()]


if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    if sys.argv[1:]:
        print("usage: python -m selma.curve", file=sys.stderr)
        sys.exit(2)
    stage.run(main)
