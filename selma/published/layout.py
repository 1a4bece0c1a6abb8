"""Whether a published file holds a model: every one of its tensors, no other, each of the right shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from selma.ground.errors import UserError


def check_layout(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise UserError unless `given` holds exactly the tensors of `wanted`, names and shapes, of real numbers."""
    strange = sorted(given.keys() - wanted.keys())
    missing = sorted(wanted.keys() - given.keys())
    wrong = sorted(key for key in given.keys() & wanted.keys() if given[key].shape != wanted[key].shape)
    for problem, keys in (("is not part of the model", strange), ("is missing", missing)):
        if keys:
            raise UserError(f"{where}: {keys[0]} {problem} ({len(keys)} in total); is it the published file?")
    if wrong:
        key = wrong[0]
        raise UserError(
            f"{where}: {key} has the shape {tuple(given[key].shape)}; {tuple(wanted[key].shape)} is needed"
        )
    whole = [key for key in sorted(wanted) if not given[key].is_floating_point()]
    if whole:
        kind = str(given[whole[0]].dtype).removeprefix("torch.")
        raise UserError(f"{where}: {whole[0]} is in {kind}; weights in floating point are needed")
