"""The embedded exam, made from its seed: DSG questions about scenes of the shapes world, in dev and test splits."""

from __future__ import annotations

from selma.ground.items import Item
from selma.shapes.world.exam import make_exam

NEEDS = ("seed", "dev_per_skill", "test_per_skill")


def make(*, seed: int, dev_per_skill: int, test_per_skill: int) -> dict[str, list[Item]]:
    """Items of both splits."""
    return make_exam(seed, dev_per_skill, test_per_skill)
