"""How many prompts a benchmark has, and questions about one image of each, before it was downloaded or made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from selma.ground.items import Item, load_split
from selma.runtime import variants
from selma.runtime.origins import EMBEDDED, Benchmark
from selma.runtime.params import Params, benchmark_of
from selma.runtime.places import BENCHMARKS


@dataclass(frozen=True)
class Exam:
    """The prompts of a split, and the questions about one image of each; None: not known."""

    prompts: int | None
    questions: int | None


# By source, its test split. Of those in several files, of one file: hps has four styles, compbench eight categories.
PUBLISHED = {
    "dsg": Exam(1060, 8182),  # j-min/DSG, dsg-1k-anns.csv
    "tifa": Exam(4081, 25829),  # TIFA v1.0, arXiv 2303.11897
    "hps": Exam(800, 0),  # arXiv 2306.09341; a preference score judges them
    "dpg": Exam(1065, None),  # arXiv 2403.05135; its questions were not counted here
    "geneval": Exam(553, None),  # djghosh13/geneval, evaluation_metadata.jsonl
    "geneval2": Exam(800, 6012),  # facebookresearch/GenEval2, geneval2_data.jsonl
    "compbench": Exam(300, None),  # arXiv 2307.06350
}


class Exams:
    """The benchmarks of params.yaml: as they lie here if they are `there`, else as their settings or the table say."""

    def __init__(self, params: Params, root: Path, there: Collection[str]) -> None:
        """`there` are stages whose outs, where they lie here, are what they would make."""
        self._params, self._root, self._there = params, root, there
        self._known: dict[tuple[str, str], Exam] = {}

    def of(self, name: str, split: str = "test") -> Exam:
        """A split's size; of no prompts where the benchmark has no such split."""
        if (name, split) not in self._known:
            self._known[name, split] = self._find(name, split)
        return self._known[name, split]

    def _find(self, name: str, split: str) -> Exam:
        own = name not in self._params.benchmarks
        folder = self._root / BENCHMARKS / name
        if f"{'own_' if own else ''}benchmark@{name}" in self._there and (folder / "test.jsonl").is_file():
            return sized(load_split(folder, split)) if (folder / f"{split}.jsonl").is_file() else Exam(0, 0)
        row = benchmark_of(self._params, name)
        if isinstance(row, Benchmark) and row.source == EMBEDDED:
            return sized(_embedded(row.seed, row.dev_per_skill, row.test_per_skill)[split])
        if split != "test":
            return Exam(0, 0)  # the published ones, and files of one's own, are test splits only
        if own or row.source not in PUBLISHED:
            return Exam(None, None)
        one, files = PUBLISHED[row.source], len(row.files or ()) or 1
        return Exam(one.prompts * files, None if one.questions is None else one.questions * files)


@cache
def _embedded(seed: int, dev: int, test: int) -> dict[str, list[Item]]:
    """The embedded benchmark's splits: making them takes a quarter of a second."""
    source = variants.load("benchmarks", EMBEDDED, "benchmarks")
    return source.make(seed=seed, dev_per_skill=dev, test_per_skill=test)


def sized(items: Collection[Item]) -> Exam:
    """The size of a split whose items are known."""
    return Exam(len(items), sum(len(item.questions) for item in items))


def rows_of(file: Path) -> int | None:
    """The rows of a JSON Lines file; None where it is not here."""
    try:
        with open(file, "rb") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError:
        return None
