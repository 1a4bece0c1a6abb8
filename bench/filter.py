"""Our ROUGE-L filter beside `rouge_score` on the same prompts: the same kept set, and how much sooner?

    python -m bench.filter [PROMPTS, default 300]

The peer's time grows with the square of the number of prompts; a few hundred do.
Exits 1 when the kept sets differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from random import Random

from rouge_score.rouge_scorer import RougeScorer

from selma.prompts.diversity import DiversityFilter
from selma.shapes.world.language import STYLES, describe
from selma.shapes.world.scene import sample_scene
from selma.shapes.world.writer import KINDS

THRESHOLD = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.filter", description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=int, nargs="?", default=300, help="how many (default: 300)")
    prompts = make_prompts(parser.parse_args().prompts)
    kept, seconds = timed(ours, prompts)
    peer_kept, peer_seconds = timed(peer, prompts)

    print(f"{len(prompts)} prompts, ROUGE-L F > {THRESHOLD} dropped")
    print(f"DiversityFilter  kept {len(kept):4d}  {seconds:8.3f} s")
    print(f"rouge_score      kept {len(peer_kept):4d}  {peer_seconds:8.3f} s")
    print(f"ratio {peer_seconds / seconds:.0f}, kept sets {'the same' if kept == peer_kept else 'DIFFER'}")
    sys.exit(kept != peer_kept)


def make_prompts(n: int) -> list[str]:
    """Prompts of all skills, shuffled together; many are near-duplicates."""
    rng = Random(0)
    styles = [STYLES[i % len(STYLES)] for i in range(n)]
    rng.shuffle(styles)
    scenes = [sample_scene(rng, rng.choice(KINDS[style])) for style in styles]
    return [describe(rng, scene, style)[0] for scene, style in zip(scenes, styles, strict=True)]


def ours(prompts: list[str]) -> list[str]:
    diversity = DiversityFilter(THRESHOLD, max_words=10**9, exam=[], seeds=[])
    return [prompt for prompt in prompts if diversity.offer(prompt).kept]


def peer(prompts: list[str]) -> list[str]:
    scorer = RougeScorer(["rougeL"])
    kept: list[str] = []
    for prompt in prompts:
        if all(scorer.score(other, prompt)["rougeL"].fmeasure <= THRESHOLD for other in kept):
            kept.append(prompt)
    return kept


def timed(keep: Callable[[list[str]], list[str]], prompts: list[str]) -> tuple[list[str], float]:
    """What `keep` keeps, and the seconds it took."""
    start = time.perf_counter()
    kept = keep(prompts)
    return kept, time.perf_counter() - start


if __name__ == "__main__":
    main()
