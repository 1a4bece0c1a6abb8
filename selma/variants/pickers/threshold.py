"""The best of those images that pass every threshold (DreamSync, arXiv 2311.17946, section 3.2).

The paper asks a VQA model (at least 0.9 of the questions) and an aesthetic one (at least 0.6) of 8 images a prompt; a
prompt of which no image passes is not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selma.picking.shots import KEPT, Shot, best

OPTIONS = {
    "judge": {"default": ""},  # by which the best is chosen, of rate.judges; "" is the first
    "least": {"default": None, "weights": True},  # by judge, of rate.judges: the score that passes
}


def verdicts(shots: Sequence[Shot], *, judge: str, least: Mapping[str, float]) -> list[str]:
    """What is said of each of a prompt's images: the first threshold that it fails, or that another is better."""
    said = [
        next((f"{name} below {bar:g}" for name, bar in least.items() if shot.scores[name] < bar), "")
        for shot in shots
    ]
    passing = [i for i, failed in enumerate(said) if not failed]
    chosen = passing[best([shots[i] for i in passing], judge)] if passing else -1
    return [KEPT if i == chosen else failed or "behind the best" for i, failed in enumerate(said)]
