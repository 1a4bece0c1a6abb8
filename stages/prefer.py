"""Score one model's images of a benchmark for their prompts by one preference judge.

    python -m stages.prefer pickscore merged shapes

reads   data/samples/<model>/<benchmark>/                   images and the prompts they were drawn from
        models/judges/<judge>/                              the judge
writes  data/preferences/<judge>/<model>/<benchmark>.jsonl  item, k, judge, score on the judge's own scale
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.pairs import Pair, read_image, read_pairs
from selma.judging.judge import load_scorer
from selma.judging.kept import Kept
from selma.judging.many import rate_all
from selma.runtime import stage, work
from selma.runtime.examined import check_examined
from selma.runtime.params import load_params


def main(judge: str, model: str, benchmark: str) -> None:
    params = load_params()
    if judge not in params.preferences:
        raise UserError(
            f"preferences: no judge {judge!r}; allowed: {', '.join(params.preferences) or 'none'}"
        )
    check_examined(params, model, benchmark)
    pairs = read_pairs(Path("data/samples") / model / benchmark)
    scorer = load_scorer(judge, params.runtime.device, params.runtime.dtype)
    with work.folder(stage.name()) as folder:
        # Scores are on disk as they come: a run that is stopped and restarted scores nothing twice.
        kept = Kept(folder / "kept.jsonl", ("item", "k"))
        todo = [pair for pair in pairs if (pair.id, pair.k) not in kept]
        asked = ((read_image(pair.file), pair.text) for pair in todo)
        came = kept.keep(_rows(scores, todo, judge) for scores in rate_all(scorer, asked, params.judge.batch))
        for _ in stage.progress(came, len(todo), f"prefer {judge} {model} {benchmark}"):
            pass
        out = folder / f"{benchmark}.jsonl"
        write_jsonl(out, [kept[pair.id, pair.k] for pair in pairs])
        work.publish(out, Path("data/preferences") / judge / model / out.name)


def _rows(scores: Mapping[int, float], pairs: Sequence[Pair], judge: str) -> list[dict[str, Any]]:
    """Rows of the scores of pairs, by number."""
    return [
        {"item": pairs[i].id, "k": pairs[i].k, "judge": judge, "score": round(score, 6)}
        for i, score in scores.items()
    ]


if __name__ == "__main__":
    stage.run(main)
