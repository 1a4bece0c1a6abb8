"""The features that a text side hands to a diffusion decoder, and those of pairs: what text encoders alone learn from.

An image's features are its text's, changed by its seed as they were when it was drawn (selma/backbones/diversity.py).
So a pair's need no file: they follow from the model that drew them and two seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selma.backbones.conditioning import token_ids
from selma.backbones.diversity import perturbed
from selma.experts.draws import batch_indices
from selma.experts.noisy import Parts
from selma.ground.errors import UserError
from selma.ground.files import atomic
from selma.runtime.candidates import Diversity

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline
    from selma.ground.pairs import Pair
    from selma.lora.text import WithTexts
    from selma.runtime.params import Training

_AT_ONCE = 64  # texts that are encoded at once, where nothing is learnt


@dataclass(frozen=True)
class Features(Parts):
    """n pairs, all on one device.

    ids         int64 [n, encoders, tokens], the captions
    reference   [n, tokens, width], their features by the model that drew the images
    winners, losers    [n, tokens, width], those that the better and the worse image were drawn from
    """

    ids: torch.Tensor
    reference: torch.Tensor
    winners: torch.Tensor
    losers: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.ids.device

    @property
    def numbers(self) -> int:
        """Numbers that hold one pair's features."""
        return 3 * self.reference[0].numel()

    @property
    def pixels(self) -> int:
        """What parts of a batch are measured by: a text's tokens."""
        return self.reference.shape[1]


def of_pairs(
    file: Path,
    pipe: Pipeline,
    model: WithTexts,
    pairs: Sequence[Pair],
    diversity: Diversity | None,
    data: Path,
) -> Features:
    """The features of pairs, kept in a file; `model` is what it was when it drew them.

    Raises UserError for images that were not drawn from features of their own, and for pairs without seeds.
    """
    from safetensors.torch import load_file, save_file

    if diversity is None:
        raise UserError(
            f"{data}: its images were drawn from the text's features as they are, so no pair tells features apart; "
            "give their row of `draws` a diversity of method features or dropout"
        )
    if (bad := next((pair for pair in pairs if pair.rejected_seed is None), None)) is not None:
        raise UserError(
            f"{bad.file}: its metadata has no rejected_seed, from which the worse image's features follow"
        )
    if not file.is_file():
        ids = token_ids(pipe, [pair.text for pair in pairs]).ids
        found: dict[str, Any] = {"ids": ids, "reference": _encoded(model, ids)}
        for name, seeds in (
            ("winners", [pair.seed for pair in pairs]),
            ("losers", [pair.rejected_seed for pair in pairs]),
        ):
            found[name] = perturbed(found["reference"], seeds, diversity)
        with atomic(file) as temporary:
            save_file({name: each.cpu().contiguous() for name, each in found.items()}, temporary)
    return Features(**load_file(file, device=str(pipe.device)))


@torch.no_grad()
def _encoded(model: WithTexts, ids: torch.Tensor) -> torch.Tensor:
    device = next(model.parameters()).device
    return torch.cat([model.encode(part.to(device))[0].float().cpu() for part in ids.split(_AT_ONCE)])


def draw_features(schedule: Any, examples: Features, settings: Training, seed: int, step: int) -> Features:
    """The pairs of step `step` (from 0); captions are never dropped."""
    return examples[batch_indices(len(examples), settings.batch, seed, step).to(examples.device)]
