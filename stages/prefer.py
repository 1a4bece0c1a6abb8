"""Score one model's test images for their prompts by one preference judge.

    python -m stages.prefer pickscore merged

reads   data/samples/<model>/<benchmark>/                   images and the prompts they were drawn from
        models/judges/<judge>/                              the judge
writes  data/preferences/<judge>/<model>/<benchmark>.jsonl  item, k, judge, score on the judge's own scale; a file for
                                                            each of evaluate.benchmarks
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_json, write_json, write_jsonl
from selma.ground.pairs import read_image, read_pairs
from selma.judging.judge import load_scorer, rate
from selma.runtime import stage, work
from selma.runtime.params import load_params


def main(judge: str, model: str) -> None:
    params = load_params()
    if judge not in params.preferences:
        raise UserError(
            f"preferences: no judge {judge!r}; allowed: {', '.join(params.preferences) or 'none'}"
        )
    if model not in params.models:
        raise UserError(f"models: no model {model!r} in params.yaml; allowed: {', '.join(params.models)}")
    samples = Path("data/samples") / model
    todo = [(name, pair) for name in params.evaluate.benchmarks for pair in read_pairs(samples / name)]
    scorer = load_scorer(judge, params.runtime.device, params.runtime.dtype)
    with work.folder(stage.name()) as folder:
        # A file per image, as it comes: a run that is stopped and restarted scores nothing twice.
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in params.evaluate.benchmarks}
        for name, pair in stage.progress(todo, len(todo), f"prefer {judge} {model}"):
            file = folder / "images" / name / f"{pair.id}-{pair.k}.json"
            if not file.exists():
                score = rate(scorer, read_image(pair.file), pair.text)
                row = {"item": pair.id, "k": pair.k, "judge": judge, "score": round(score, 6)}
                write_json(file, row)
            rows[name].append(read_json(file))
        for name, found in rows.items():
            write_jsonl(folder / "scores" / f"{name}.jsonl", found)
        work.publish(folder / "scores", Path("data/preferences") / judge / model)


if __name__ == "__main__":
    stage.run(main)
