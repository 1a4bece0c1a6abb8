"""Soft-TIFA, GenEval 2's score (arXiv 2512.16853), of first tokens' probabilities.

A question's score is the probability that the judge's first token begins the expected answer, summed over the answer's
spellings: yes, Yes and both after a space; of a number the digits, too. The official script takes the first token of
each spelling, and where a tokenizer gives two spellings the same one, counts it twice; `dedupe` counts it once. The
arithmetic mean of a prompt's scores (AM) speaks about atoms, their geometric mean (GM) about the prompt; both are
averaged over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from selma.scoring.figures import Figure
from selma.variants.benchmarks.geneval2 import NUMBERS, Prompt, is_count

# By prompt, by image, by question; a literal sum may exceed 1.
Masses = Sequence[Sequence[Sequence[float]]]


def spellings(question: str, answer: str) -> tuple[str, ...]:
    """The spellings of an answer that the official script sums over, in its order."""
    if not is_count(question):
        return "Yes", "yes", " yes", " Yes"
    word = answer.casefold()
    digits = str(NUMBERS.index(word))
    return word, word.capitalize(), f" {word}", f" {word.capitalize()}", digits, f" {digits}"


def mass(first: Sequence[tuple[int, float]], *, dedupe: bool = True) -> float:
    """The sum of probabilities, 0 or more, over spellings' first tokens, (token, probability) each.

    With `dedupe` a token that begins several spellings counts once, so that the sum is a probability.
    """
    return sum(dict(first).values()) if dedupe else sum(p for _, p in first)


def geometric_mean(scores: Sequence[float]) -> float:
    """The n-th root of the product of n scores, 0 if one of them is 0; raises ValueError for none."""
    if not scores:
        raise ValueError("the geometric mean of no scores is not defined")
    return math.exp(fmean(map(math.log, scores))) if min(scores) > 0 else 0.0


def soft_tifa_table(prompts: Sequence[Prompt], masses: Masses, figure: Figure) -> dict[str, Any]:
    """AM and GM over prompts, GM by number of atoms, AM over questions by skill, as in the official analysis.

    `masses` [prompt][image][question] are sums as `mass` gives; a prompt's score is the mean over its images.
    """
    am = [(fmean(map(fmean, images)), 1) for images in masses]
    gm = [(fmean(map(geometric_mean, images)), 1) for images in masses]
    atoms: dict[int, list[tuple[float, int]]] = {}
    skills: dict[str, list[tuple[float, int]]] = {}
    for prompt, images, score in zip(prompts, masses, gm, strict=True):
        atoms.setdefault(prompt.atoms, []).append(score)
        own: dict[str, list[float]] = {}
        for image in images:
            for (_, _, skill), value in zip(prompt.questions, image, strict=True):
                own.setdefault(skill, []).append(value)
        for skill, values in own.items():
            skills.setdefault(skill, []).append((sum(values), len(values)))
    return {
        "am": figure(am),
        "gm": figure(gm),
        "gm_by_atoms": {str(number): figure(atoms[number]) for number in sorted(atoms)},
        "am_by_skill": {skill: figure(skills[skill]) for skill in sorted(skills)},
    }
