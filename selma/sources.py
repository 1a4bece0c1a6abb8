"""Where benchmarks come from: each source brings its prompts and questions into selma.benchmarks' schema.

Apart from benchmarks.py, so that only the benchmark stage, and none that reads what it wrote, depends on a
source's code.
"""

from __future__ import annotations

from collections.abc import Callable

from selma.benchmarks import Item
from selma.errors import UserError


def _shapes(seed: int, dev_per_skill: int, test_per_skill: int) -> dict[str, list[Item]]:
    from selma.shapes.exam import make_exam  # a source's modules are loaded only where it is named

    return make_exam(seed, dev_per_skill, test_per_skill)


SOURCES: dict[str, Callable[[int, int, int], dict[str, list[Item]]]] = {"shapes": _shapes}


def build(source: str, *, seed: int, dev_per_skill: int, test_per_skill: int) -> dict[str, list[Item]]:
    """Items of every split of a source named in SOURCES; raises UserError for another name."""
    if source not in SOURCES:
        raise UserError(f"benchmark source {source!r} is unknown; allowed: {', '.join(SOURCES)}")
    return SOURCES[source](seed, dev_per_skill, test_per_skill)
