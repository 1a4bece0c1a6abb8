"""Weights found by the dev score: dW = sum_t w_t dW_t, w = argmax score (after LoraHub, arXiv 2307.13269, section 3).

LoraHub's search without gradients, on prompts that no test sees, and on updates where LoraHub weights factors. The
optimiser is Nelder and Mead's simplex (scipy). It starts at delta_mean; the first of its other corners is a larger
scale, the rest are directions drawn by `seed`. |w_t| <= `bound`. The best point seen is kept: at least as good on dev
as delta_mean, though with few prompts a part of its lead is luck. `found` has its weights, and every point with its
score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from selma.lora.files import LoraWeights
from selma.merging.layers import from_sums

if TYPE_CHECKING:
    from selma.merging.merge import Score

NEEDS = ("score",)
# evaluations: of the dev score, at most; step: of the first corners, where 1 is an expert's whole weight in the mean.
OPTIONS = {
    "evaluations": {"default": 30, "ge": 1},
    "step": {"default": 0.5, "gt": 0},
    "bound": {"default": 1.5, "gt": 0},  # LoraHub's
    "seed": {"default": 0, "ge": 0},
}


def merge(
    experts: Mapping[str, LoraWeights],
    *,
    score: Score,
    evaluations: int,
    step: float,
    bound: float,
    seed: int,
) -> LoraWeights:
    """The weighted sum of the updates that scores best of those tried."""
    import numpy as np

    count, trace = len(experts), []
    bound = max(bound, 1 / count)

    def loss(point: np.ndarray) -> float:
        weights = dict(zip(experts, (round(float(each), 6) for each in point), strict=True))
        known = next((row["score"] for row in trace if row["weights"] == weights), None)
        if known is None:
            known = float(score(from_sums(experts, weights)))
            trace.append({"weights": weights, "score": round(known, 6)})
        return -known

    start = np.full(count, 1 / count)
    _search(loss, start, step / count * count**0.5, bound, evaluations, seed)
    best = max(trace, key=lambda row: row["score"])  # of equals the first, which is nearest to the mean
    merged = from_sums(experts, best["weights"])
    merged.provenance["found"] = {**best, "evaluations": len(trace), "trace": trace}
    return merged


def _search(loss: object, start: object, size: float, bound: float, evaluations: int, seed: int) -> None:
    """Minimise `loss` within +-bound by at most `evaluations` calls, from a simplex of edges `size` at `start`."""
    import numpy as np
    from scipy.optimize import minimize

    count = len(start)
    directions = np.random.default_rng(seed).standard_normal((count, count))
    directions[:, 0] = 1  # all weights together: the scale
    axes, triangle = np.linalg.qr(directions)
    axes *= np.sign(np.diagonal(triangle))
    corners = np.clip(np.vstack([start, start + size * axes.T]), -bound, bound)
    minimize(
        loss,
        start,
        method="Nelder-Mead",
        bounds=[(-bound, bound)] * count,
        options={
            "initial_simplex": corners,
            "maxfev": evaluations,
            "xatol": 1e-3,
            "fatol": 1e-6,
            "adaptive": True,
        },
    )
