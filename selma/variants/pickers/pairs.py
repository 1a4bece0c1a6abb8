"""The best and the worst of a prompt's images, as a preference to learn (Diffusion-DPO, arXiv 2311.12908).

SELMA's comparison (appendix E) draws two images and lets the CLIP score choose; with more images the two are further
apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from selma.picking.shots import KEPT, REJECTED, Shot, best

OPTIONS = {
    "judge": {"default": ""},  # of rate.judges; "" is the first
    "margin": {"default": 0.0, "ge": 0},  # by which the better one must lead, on the judge's own scale
}
LEAST = 2  # images that a prompt needs
PAIRS = True  # what is kept has a rejected one beside it


def verdicts(shots: Sequence[Shot], *, judge: str, margin: float) -> list[str]:
    """What is said of each of a prompt's images; of equal ones the first is the better, the last the worse one."""
    scores = [shot.scores[judge] for shot in shots]
    better = best(shots, judge)
    worse = min(range(len(shots)), key=lambda i: (scores[i], -i))
    if scores[better] - scores[worse] <= margin:
        return [f"no lead above {margin:g}"] * len(shots)
    said = {better: KEPT, worse: REJECTED}
    return [said.get(i, "between") for i in range(len(shots))]
