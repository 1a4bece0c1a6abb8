"""Ask the judge the benchmark's questions about one model's images; one answer per line.

    python -m stages.answer merged

reads   data/samples/<model>/         images of the test prompts
        data/benchmarks/<benchmark>/  their questions
writes  data/answers/<model>.jsonl    item, k, question, answer, p_yes, expected
"""

from __future__ import annotations

from pathlib import Path

from selma import benchmarks, records, stage
from selma.errors import UserError
from selma.judges import ask, load_judge
from selma.params import load_params


def main(model: str) -> None:
    params = load_params()
    samples = Path("data/samples") / model
    items = {
        item.id: item
        for item in benchmarks.load_split(Path("data/benchmarks") / params.evaluate.benchmark, "test")
    }
    pairs = records.read_pairs(samples)
    _check(samples, pairs, items)
    judge = load_judge(params.judge.name)

    rows = []
    for pair in stage.progress(pairs, len(pairs), f"answer {model}"):
        rows += ask(judge, items[pair.id], records.read_image(pair.file), pair.k)
    records.write_jsonl(Path("data/answers") / f"{model}.jsonl", rows)


def _check(samples: Path, pairs: list[records.Pair], items: dict[str, benchmarks.Item]) -> None:
    """Raise UserError unless the images are of the benchmark's prompts, and of all of them."""
    for pair in pairs:
        if pair.id not in items or pair.text != items[pair.id].prompt:
            raise UserError(
                f"{pair.file}: {pair.id!r} is no prompt of this benchmark; run the sample stage again"
            )
    for missing in items.keys() - {pair.id for pair in pairs}:
        raise UserError(f"{samples}: no image of item {missing!r}; run the sample stage again")


if __name__ == "__main__":
    stage.run(main)
