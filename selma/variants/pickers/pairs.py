"""The best and the worst of a prompt's images, as a preference to learn (Diffusion-DPO, arXiv 2311.12908).

SELMA's comparison (appendix E) draws two images and lets the CLIP score choose; with more images the two are further
apart, and there may be more pairs of them: the second best and the second worst, too, and so on. Which kept image
stands beside which rejected one goes by their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from selma.picking.shots import KEPT, REJECTED, Shot

OPTIONS = {
    "judge": {"default": ""},  # of rate.judges; "" is the first
    "margin": {"default": 0.0, "ge": 0},  # by which the better one must lead, on the judge's own scale
    "pairs": {"default": 1, "ge": 1},  # of a prompt, at most; no image is in two
}
LEAST = 2  # images that each pair of a prompt needs
PAIRS = True  # what is kept has a rejected one beside it


def verdicts(shots: Sequence[Shot], *, judge: str, margin: float, pairs: int) -> list[str]:
    """What is said of each of a prompt's images; of equal ones the first is the better, the last the worse one.

    Each of the kept ones leads each of the rejected ones, of which there are as many, by more than `margin`.
    """
    scores = [shot.scores[judge] for shot in shots]
    ranked = sorted(range(len(shots)), key=lambda i: (-scores[i], i))
    found = list(zip(ranked, ranked[::-1], strict=True))[: min(pairs, len(shots) // 2)]
    found = [(better, worse) for better, worse in found if scores[better] - scores[worse] > margin]
    if not found:
        return [f"no lead above {margin:g}"] * len(shots)
    said = {better: KEPT for better, _ in found} | {worse: REJECTED for _, worse in found}
    return [said.get(i, "between") for i in range(len(shots))]
