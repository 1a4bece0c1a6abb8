"""Which model of which benchmark a stage of the exam is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selma.ground.errors import UserError

if TYPE_CHECKING:
    from selma.runtime.params import Params


def check_examined(params: Params, model: str, benchmark: str) -> None:
    """Raise UserError unless params.yaml has the model and examines by the benchmark."""
    if model not in params.models:
        raise UserError(f"models: no model {model!r} in params.yaml; allowed: {', '.join(params.models)}")
    known = params.evaluate.benchmarks
    if benchmark not in known:
        raise UserError(
            f"evaluate.benchmarks: no benchmark {benchmark!r} in params.yaml; allowed: {', '.join(known)}"
        )
