"""Where benchmarks come from: each source brings its prompts and questions into selma.benchmarks' schema.

Apart from benchmarks.py, so that only the benchmark stage, and none that reads what it wrote, depends on a
source's code. `shapes` is made from a seed; the others are files that their authors released, which the
benchmark stage keeps beside its splits under the names of FILES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from selma.benchmarks import Item
from selma.ground.errors import UserError

T = TypeVar("T")


# A source's modules are loaded only where it is named.
def _shapes(seed: int, dev_per_skill: int, test_per_skill: int) -> dict[str, list[Item]]:
    from selma.shapes.exam import make_exam

    return make_exam(seed, dev_per_skill, test_per_skill)


def _dsg(files: Mapping[str, Path]) -> list[Item]:
    from selma import dsg

    return dsg.items(dsg.read_annotations(files["annotations"]))


def _tifa(files: Mapping[str, Path]) -> list[Item]:
    from selma import tifa

    return tifa.read_questions(files["questions"])


def _hps(files: Mapping[str, Path]) -> list[Item]:
    from selma import hps

    return hps.read_prompts(files)


MADE: dict[str, Callable[[int, int, int], dict[str, list[Item]]]] = {"shapes": _shapes}
READ: dict[str, Callable[[Mapping[str, Path]], list[Item]]] = {"dsg": _dsg, "tifa": _tifa, "hps": _hps}
# The file names of those that are one file; the others' parts are named in params.
FILES = {"dsg": {"annotations": "annotations.csv"}, "tifa": {"questions": "questions.json"}}


def build(source: str, *, seed: int, dev_per_skill: int, test_per_skill: int) -> dict[str, list[Item]]:
    """Items of every split of a source named in MADE; raises UserError for another name."""
    return _pick(MADE, source)(seed, dev_per_skill, test_per_skill)


def read(source: str, files: Mapping[str, Path]) -> dict[str, list[Item]]:
    """Items of a source named in READ, from its files by part; all of them are test items.

    Raises UserError for another name and for a file that is not what its source releases.
    """
    return {"test": _pick(READ, source)(files)}


def file_name(source: str, part: str) -> str:
    """The name under which a source's file is kept beside the splits."""
    return FILES.get(source, {}).get(part, f"{part}.json")


def _pick(registry: Mapping[str, T], source: str) -> T:
    if source not in registry:
        raise UserError(f"benchmark source {source!r} is unknown; allowed: {', '.join(registry)}")
    return registry[source]
