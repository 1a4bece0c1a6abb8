"""Score one model's test images for their prompts by one preference judge.

    python -m stages.prefer pickscore merged

reads   data/samples/<model>/                               images and the prompts they were drawn from
        models/judges/<judge>/                              the judge
writes  data/preferences/<judge>/<model>/<benchmark>.jsonl  item, k, judge, score on the judge's own scale; a file for
                                                            evaluate.benchmark and each of evaluate.others
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selma import benchmarks, records, stage, work
from selma.judges.scorers import Scorer, load_scorer
from selma.params import load_params


def main(judge: str, model: str) -> None:
    params = load_params()
    samples = benchmarks.folders(
        Path("data/samples") / model, params.evaluate.benchmark, params.evaluate.others
    )
    pairs = {name: records.read_pairs(folder) for name, folder in samples.items()}
    scorer = load_scorer(judge, params.runtime.device, params.runtime.dtype)
    with work.folder(stage.name()) as folder:
        # A file per benchmark, as it is done: a run that is stopped and started again goes on with the next.
        for name in pairs:
            file = folder / "scores" / f"{name}.jsonl"
            if not file.exists():
                records.write_jsonl(file, _score(scorer, judge, f"{judge} {model} {name}", pairs[name]))
        work.publish(folder / "scores", Path("data/preferences") / judge / model)


def _score(scorer: Scorer, judge: str, label: str, pairs: list[records.Pair]) -> Iterator[dict[str, Any]]:
    """One row an image."""
    for pair in stage.progress(pairs, len(pairs), label):
        score = scorer.score(records.read_image(pair.file), pair.text)
        yield {"item": pair.id, "k": pair.k, "judge": judge, "score": round(score, 6)}


if __name__ == "__main__":
    stage.run(main)
