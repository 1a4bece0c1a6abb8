"""Ways to make a prompt's images differ by more than their noise: candidates that a judge can tell apart (SILMM).

    temperature   image tokens from logits divided by `strength`                       multimodal backbones
    dropout       entries of features dropped with chance `strength`, the same ones    both kinds
                  throughout an image (DropDiv, SILMM, arXiv 2412.05818)
    features      Gaussian noise on the text's features, `strength` times their size   diffusion backbones

Dropped are, of a multimodal backbone, outputs of the language model's last layers, of a diffusion backbone the text
encoder's states, which noise is added to, too. Every draw follows from the image's own seed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from selma.ground.errors import UserError
from selma.runtime.candidates import DROPOUT, FEATURES, TEMPERATURE

if TYPE_CHECKING:
    from selma.backbones.multimodal import Multimodal
    from selma.runtime.candidates import Diversity

LAST = 2  # of a language model's layers, whose outputs are dropped from


def check_diversity(diversity: Diversity | None, multimodal: bool) -> None:
    """Raise UserError for a method that the other kind of backbone has."""
    if diversity is None:
        return
    kind = "multimodal" if multimodal else "diffusion"
    if diversity.method == (FEATURES if multimodal else TEMPERATURE):
        allowed = ", ".join((TEMPERATURE, DROPOUT) if multimodal else (FEATURES, DROPOUT))
        raise UserError(
            f"diversity.method is {diversity.method}, which a {kind} backbone does not have; allowed: {allowed}"
        )


def perturbed(states: torch.Tensor, seeds: Sequence[int], diversity: Diversity) -> torch.Tensor:
    """A text's features [n, tokens, width], each changed by its image's seed; as they are where the method is neither
    `features` nor `dropout`. Noise is drawn in float32 on the CPU."""
    if diversity.method == FEATURES:
        size = states.float().square().mean((1, 2), keepdim=True).sqrt()
        noise = torch.stack([torch.randn(states.shape[1:], generator=_generator(seed)) for seed in seeds])
        return (states.float() + diversity.strength * size * noise.to(states.device)).to(states.dtype)
    if diversity.method == DROPOUT:
        return states * masks(seeds, states.shape[-1], diversity.strength).to(states)[:, None]
    return states


def masks(seeds: Sequence[int], width: int, chance: float) -> torch.Tensor:
    """[n, width], each row 0 with that chance and else 1 / (1 - chance), by its image's seed."""
    kept = torch.stack([torch.rand(width, generator=_generator(seed)) >= chance for seed in seeds])
    return kept.float() / (1 - chance)


@contextmanager
def dropping(opened: Multimodal) -> Iterator[threading.local]:
    """Let the last layers of the language model multiply by `mask` [n, width] of what this gives, thread by thread, or
    by nothing where a thread sets none."""
    own = threading.local()

    def drop(layer: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        mask = getattr(own, "mask", None)
        return output if mask is None else output * mask[:, None].to(output)

    layers = opened.model.model.language_model.layers[-LAST:]
    hooks = [layer.register_forward_hook(drop) for layer in layers]
    try:
        yield own
    finally:
        for hook in hooks:
            hook.remove()


def _generator(seed: int) -> torch.Generator:
    """Not the one that an image's noise is drawn by: numbers of the two must not be the same."""
    digest = hashlib.sha256(f"diversity:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
