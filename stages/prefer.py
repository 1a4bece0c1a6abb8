"""Score every model's test images for their prompts, by each judge in `preferences`.

    python -m stages.prefer

reads   data/samples/<model>/                    images and the prompts they were drawn from
        models/judges/<name>/                    the judges
writes  data/preferences/<model>.jsonl           item, k, judge, score: each judge's own scale; no lines without judges
        data/preferences/<other>/<model>.jsonl   the same for each of evaluate.others
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma import benchmarks, records, stage, work
from selma.judges.scorers import Scorer, load_scorer
from selma.params import load_params


def main() -> None:
    params = load_params()
    primary, others = params.evaluate.benchmark, params.evaluate.others
    pairs = {
        (benchmark, model): records.read_pairs(folder)
        for model in params.models
        for benchmark, folder in benchmarks.folders(Path("data/samples") / model, primary, others).items()
    }
    with work.folder(stage.name()) as folder:

        def kept(name: str, benchmark: str, model: str) -> Path:
            return folder / "scores" / name / benchmark / f"{model}.jsonl"

        # A file per judge, benchmark and model: a run that is stopped and started again goes on with the next.
        for name in params.preferences:
            missing = {key: kept(name, *key) for key in pairs if not kept(name, *key).exists()}
            if missing:
                scorer = load_scorer(name, params.runtime.device, params.runtime.dtype)
                for (benchmark, model), file in missing.items():
                    label = f"{name} {benchmark} {model}"
                    records.write_jsonl(file, _score(scorer, name, label, pairs[benchmark, model]))
        out = folder / "out"
        for benchmark, target in benchmarks.folders(out, primary, others).items():
            for model in params.models:
                files = [kept(name, benchmark, model) for name in params.preferences]
                records.write_jsonl(
                    target / f"{model}.jsonl", (row for file in files for row in records.read_jsonl(file))
                )
        work.publish(out, Path("data/preferences"))


def _score(scorer: Scorer, name: str, label: str, pairs: list[records.Pair]) -> list[dict[str, Any]]:
    """One row an image."""
    rows = []
    for pair in stage.progress(pairs, len(pairs), label):
        score = scorer.score(records.read_image(pair.file), pair.text)
        rows.append({"item": pair.id, "k": pair.k, "judge": name, "score": round(score, 6)})
    return rows


if __name__ == "__main__":
    stage.run(main)
