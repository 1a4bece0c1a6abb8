"""The best of a prompt's images by a judge's score (rejection sampling, as in RAFT, arXiv 2304.06767)."""

from __future__ import annotations

from collections.abc import Sequence

from selma.picking.shots import KEPT, Shot, best

OPTIONS = {"judge": {"default": ""}}  # of rate.judges; "" is the first
LEAST = 2  # images that a prompt needs


def verdicts(shots: Sequence[Shot], *, judge: str) -> list[str]:
    """What is said of each of a prompt's images; of equal ones the first is kept."""
    chosen = best(shots, judge)
    return [KEPT if i == chosen else "behind the best" for i in range(len(shots))]
