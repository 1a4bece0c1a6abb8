"""The prompts that a policy learns on: unlike the exam's, and apart from those that choose its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.items import Item, load_split, splits
from selma.prompts.diversity import exam_filter

EVERY, MOST_HELD = 10, 2000  # of the training prompts, where the exam has no dev split


def unlike(items: Sequence[Item], exam: Iterable[str]) -> list[Item]:
    """The items that are no exam prompt and near none (ROUGE-L F of at most 0.8): the filter stage's guard once more,
    for prompts that did not go through it. Raises UserError where none is left."""
    verdicts = exam_filter(exam).judge(item.prompt for item in items)
    kept = [item for item, verdict in zip(items, verdicts, strict=True) if verdict.kept]
    if not kept:
        raise UserError(
            f"all {len(items)} training prompts are near a prompt of evaluate.benchmarks; none is left"
        )
    return kept


def apart(items: Sequence[Item], lead: Path) -> tuple[list[Item], list[Item]]:
    """The items to learn on, and those to examine checkpoints on: the dev split of the leading benchmark `lead`.

    The published benchmarks have none. There every tenth training prompt is held out, of at most 2,000: no test prompt
    chooses a checkpoint.
    """
    if "dev" in splits(lead):
        return list(items), load_split(lead, "dev")
    held = {i for i in range(len(items[:MOST_HELD])) if i % EVERY == EVERY - 1}
    if not held:
        raise UserError(
            f"{lead} has no dev split, and of {len(items)} training prompts none can be held out in its place; "
            f"at least {EVERY} are needed"
        )
    return [item for i, item in enumerate(items) if i not in held], [items[i] for i in sorted(held)]
