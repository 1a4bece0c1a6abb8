"""Score one model's images of a benchmark for their prompts by one preference judge.

    python -m stages.prefer pickscore merged shapes

reads   data/samples/<model>/<benchmark>/                   images and the prompts they were drawn from
        models/judges/<judge>/                              the judge
writes  data/preferences/<judge>/<model>/<benchmark>.jsonl  item, k, judge, score on the judge's own scale
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


def main(judge: str, model: str, benchmark: str) -> None:
    params = load_params()
    if judge not in params.preferences:
        raise UserError(
            f"preferences: no judge {judge!r}; allowed: {', '.join(params.preferences) or 'none'}"
        )
    if model not in params.models:
        raise UserError(f"models: no model {model!r} in params.yaml; allowed: {', '.join(params.models)}")
    pairs = read_pairs(Path("data/samples") / model / benchmark)
    scorer = load_scorer(judge, params.runtime.device, params.runtime.dtype)
    with work.folder(stage.name()) as folder:
        # A file per image, as it comes: a run that is stopped and restarted scores nothing twice.
        rows: list[dict[str, Any]] = []
        for pair in stage.progress(pairs, len(pairs), f"prefer {judge} {model} {benchmark}"):
            file = folder / "images" / f"{pair.id}-{pair.k}.json"
            if not file.exists():
                score = rate(scorer, read_image(pair.file), pair.text)
                write_json(file, {"item": pair.id, "k": pair.k, "judge": judge, "score": round(score, 6)})
            rows.append(read_json(file))
        out = folder / f"{benchmark}.jsonl"
        write_jsonl(out, rows)
        work.publish(out, Path("data/preferences") / judge / model / out.name)


if __name__ == "__main__":
    stage.run(main)
