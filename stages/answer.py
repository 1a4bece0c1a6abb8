"""Ask the judge a benchmark's questions about one model's images; one answer per line.

    python -m stages.answer merged shapes

reads   data/samples/<model>/<benchmark>/         images of the test prompts
        data/benchmarks/<benchmark>/              the questions
        models/judges/<judge.name>/               the judge
writes  data/answers/<model>/<benchmark>.jsonl    item, k, question, answer, p_yes, expected, and the tokens (read,
                                                  written) where a server told of them; empty for a benchmark
                                                  that asks nothing
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.items import Item, load_split
from selma.ground.pairs import Pair, read_image, read_pairs
from selma.judging.judge import load_judge
from selma.judging.kept import Kept
from selma.judging.many import ask_all
from selma.runtime import stage, work
from selma.runtime.examined import check_examined
from selma.runtime.params import load_params


def main(model: str, benchmark: str) -> None:
    params = load_params()
    check_examined(params, model, benchmark)
    shots = _shots(benchmark, Path("data/samples") / model / benchmark)
    judge = load_judge(params.judge.name, params.runtime.device, params.runtime.dtype) if shots else None

    with work.folder(stage.name()) as folder:
        # Answers are on disk as they come: a run that is stopped and restarted asks nothing twice.
        kept = Kept(folder / "kept.jsonl", ("item", "k", "question"))
        todo = [(_unanswered(item, pair.k, kept), pair) for item, pair in shots]
        asked = ((item, pair.k, read_image(pair.file)) for item, pair in todo if item.questions)
        came = kept.keep(ask_all(judge, asked, params.judge.batch)) if shots else ()
        questions = sum(len(item.questions) for item, _ in todo)
        for _ in stage.progress(came, questions, f"answer {model} {benchmark}", "answers"):
            pass
        out = folder / f"{benchmark}.jsonl"
        write_jsonl(out, [kept[item.id, pair.k, q.id] for item, pair in shots for q in item.questions])
        work.publish(out, Path("data/answers") / model / out.name)


def _unanswered(item: Item, k: int, kept: Kept) -> Item:
    """The item with those questions about its image k that have no answer yet."""
    return replace(item, questions=tuple(q for q in item.questions if (item.id, k, q.id) not in kept))


def _shots(benchmark: str, samples: Path) -> list[tuple[Item, Pair]]:
    """A benchmark's items that ask something, each with every image of it.

    Raises UserError unless the images are of the benchmark's prompts, and of all of them, equally many.
    """
    items = {item.id: item for item in load_split(Path("data/benchmarks") / benchmark, "test")}
    pairs = read_pairs(samples)
    for pair in pairs:
        if pair.id not in items or pair.text != items[pair.id].prompt:
            raise UserError(
                f"{pair.file}: {pair.id!r} is not a prompt of benchmark {benchmark}; run the sample stage again"
            )
    there, images = {(pair.id, pair.k) for pair in pairs}, sorted({pair.k for pair in pairs})
    for item in items:
        for k in images:
            if (item, k) not in there:
                raise UserError(f"{samples}: item {item!r} has no image {k}; run the sample stage again")
    return [(items[pair.id], pair) for pair in pairs if items[pair.id].questions]


if __name__ == "__main__":
    stage.run(main)
