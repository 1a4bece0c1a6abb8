"""What each stage of dvc.yaml makes by params.yaml: images, steps, LLM calls, questions to judges."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from selma.planning import drawing, training
from selma.planning.basis import Basis
from selma.planning.work import Work
from selma.runtime.dvcfile import Stage
from selma.runtime.params import Params, benchmark_of


class Amounts:
    """The work of stages under one params.yaml."""

    def __init__(self, params: Params, root: Path, there: Collection[str]) -> None:
        """`there` are stages whose outs, where they lie here, are what they would make."""
        self._basis = Basis(params, root, there)

    def of(self, stage: Stage) -> Work:
        """What a stage makes; of a kind that is not known here, nothing that could be counted."""
        kind, words = stage.name.partition("@")[0], stage.cmd.split()[3:]
        return _KINDS.get(kind, _other)(self._basis, kind, *words)


def _other(of: Basis, kind: str, *words: str) -> Work:
    params = of.params
    if kind in ("benchmark", "own_benchmark"):
        row = benchmark_of(params, words[0])
        sizes = (
            [str(size) for size in (row.dev_per_skill, row.test_per_skill) if size]
            if kind == "benchmark"
            else []
        )
        return Work(by=" ".join([row.source, *sizes]), stored=(f"{kind}, {words[0]}", 1.0))
    if kind in ("backbone", "judge", "own_backbone", "own_judge", "own_lora"):
        return Work(by=words[0], stored=(f"{kind}, {words[0]}", 1.0))
    if kind in ("evaluate", "report"):
        by = f"{params.profile}, {len(params.models)} models of {', '.join(params.evaluate.benchmarks)}"
        return Work(by=by, stored=(f"{kind}, {by}", 1.0))
    return Work(stored=(kind, 1.0) if kind == "pool" else None)


_KINDS: dict[str, Callable[..., Work]] = {
    "prompts": drawing.written,
    "filter": drawing.filtered,
    "questions": drawing.questioned,
    "images": drawing.images,
    "draw": drawing.more,
    "render": drawing.rendered,
    "rate": drawing.rated,
    "rate_drawn": drawing.rated,
    "expert": training.trained,
    "mixture": training.mixed,
    "select": training.chosen,
    "select_mixture": training.chosen,
    "policy": training.learning,
    "merge": training.merged,
    "model": training.model,
    "sample": drawing.sampled,
    "answer": drawing.answered,
    "prefer": drawing.preferred,
}
