"""Our ROUGE-L filter beside `rouge_score` on the same prompts: the same kept set, and how much sooner?

    python -m bench.filter [PROMPTS, default 300] [--text shapes|captions]
    python -m bench.filter --growth 1000 10000 100000 1000000 [--text shapes|captions]

shapes    the embedded world's prompts: 132 distinct words, and many near-duplicates
captions  made-up captions: a large vocabulary, as uneven as natural text's (bench/_captions.py)

The peer's time grows with the square of the number of prompts; a thousand take it half a minute. Exits 1 when the kept
sets differ. With --growth our filter runs alone, in a process for each size: prompts, kept, seconds, how the time grew
from the size before (n to that power), and the process's peak memory, prompts and Python included.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from math import log
from random import Random

from rouge_score.rouge_scorer import RougeScorer

from bench._arguments import at_least
from bench._captions import captions
from selma.prompts.diversity import DiversityFilter
from selma.runtime import command
from selma.shapes.world.language import STYLES, describe
from selma.shapes.world.scene import sample_scene
from selma.shapes.world.writer import KINDS

THRESHOLD = 0.8


def main() -> None:
    parser = command.Parser(prog="python -m bench.filter", description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=at_least(1), nargs="?", default=300, help="how many (default: 300)")
    parser.add_argument("--text", choices=TEXTS, default="shapes", help="what kind (default: shapes)")
    parser.add_argument(
        "--growth", type=at_least(1), nargs="+", metavar="PROMPTS", help="sizes to run ours alone at"
    )
    args = parser.parse_args()
    if args.growth:
        growth(args.growth, args.text)
    else:
        sys.exit(beside(TEXTS[args.text](args.prompts)))


def beside(prompts: list[str]) -> bool:
    """Print what both filters keep and take; whether they differ."""
    kept, seconds = timed(ours, prompts)
    peer_kept, peer_seconds = timed(peer, prompts)

    print(f"{len(prompts)} prompts, ROUGE-L F > {THRESHOLD} dropped")
    print(f"DiversityFilter  kept {len(kept):4d}  {seconds:8.3f} s")
    print(f"rouge_score      kept {len(peer_kept):4d}  {peer_seconds:8.3f} s")
    print(f"ratio {peer_seconds / seconds:.0f}, kept sets {'the same' if kept == peer_kept else 'DIFFER'}")
    return kept != peer_kept


def growth(sizes: list[int], text: str) -> None:
    """Print a line per size."""
    before: tuple[int, float] | None = None
    for size in sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            kept, seconds, gigabytes = pool.apply(alone, (size, text))
        compared = before is not None and before[0] != size
        grew = f"n^{log(seconds / before[1]) / log(size / before[0]):.2f}" if compared else ""
        print(
            f"{size:8d} {text}  kept {kept:7d}  {seconds:8.3f} s  {grew:>6}  {gigabytes:.2f} GB", flush=True
        )
        before = size, seconds


def alone(size: int, text: str) -> tuple[int, float, float]:
    """Prompts kept of so many, seconds taken, and GB (10^9 bytes) of memory at the peak."""
    prompts = TEXTS[text](size)
    kept, seconds = timed(ours, prompts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return len(kept), seconds, peak / 1e9


def make_prompts(n: int) -> list[str]:
    """Prompts of all skills, shuffled together; many are near-duplicates."""
    rng = Random(0)
    styles = [STYLES[i % len(STYLES)] for i in range(n)]
    rng.shuffle(styles)
    scenes = [sample_scene(rng, rng.choice(KINDS[style])) for style in styles]
    return [describe(rng, scene, style)[0] for scene, style in zip(scenes, styles, strict=True)]


TEXTS = {"shapes": make_prompts, "captions": captions}


def ours(prompts: list[str]) -> list[str]:
    diversity = DiversityFilter(THRESHOLD, max_words=10**9, exam=[], seeds=[])
    return [prompt for prompt, verdict in zip(prompts, diversity.judge(prompts), strict=True) if verdict.kept]


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
