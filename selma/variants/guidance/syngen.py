"""SynGen (Rassin et al., arXiv 2306.08877): a noun and what modifies it attend to the same places of the image.

With A the cross-attention map of a token in the text's branch (selma/images/attention.py), normalised over places, and
D(p, q) = (KL(p||q) + KL(q||p)) / 2, the loss of an image is a sum over its pairs of a noun n and a modifier m

    D(A_m, A_n) - mean over u of (D(A_m, A_u) + D(A_n, A_u)) / 2,

u the prompt's tokens outside of n and all that modifies it; of a word's several tokens the one with the largest D
counts, and a noun without a modifier adds nothing. Before each of the first `until` of all steps the latents, as the
UNet reads them, go `step` down its gradient (equation 6), each image down its own: a batch is a batch. A prompt without
a pair draws the plain model's image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from selma.images.classifier_free import branches, combine
from selma.images.parsers import parse
from selma.images.spans import token_span, tokenizers

if TYPE_CHECKING:
    from selma.backbones.conditioning import Conditioning
    from selma.backbones.loading import Pipeline
    from selma.images.guide import Look

__all__ = ["branches", "combine", "prepare"]

OPTIONS = {
    "step": {"default": 20.0, "ge": 0},
    "until": {"default": 0.5, "ge": 0, "le": 1},
    "parser": {"default": "rules", "one_of": ("rules", "spacy")},
}

# A gradient keeps every layer's activations: of four images of 512 px at once, or of one of 1024 px.
GRADIENT_PIXELS = 4 * 512 * 512
_FLOAT16 = (
    1024.0  # float16 rounds small gradients to 0; the loss is larger by this, its gradient smaller again
)


@dataclass(frozen=True)
class Pair:
    """Positions of a modifier's and a noun's tokens, and of the tokens that have nothing to do with either."""

    modifier: tuple[int, ...]
    noun: tuple[int, ...]
    outside: tuple[int, ...]


def prepare(
    pipe: Pipeline, texts: Sequence[str], encoded: Conditioning, step: float, until: float, parser: str
) -> _SynGen:
    """The pairs of every text."""
    return _SynGen(pipe, pairs(pipe, texts, parser), step, until)


def pairs(pipe: Pipeline, texts: Sequence[str], parser: str = "rules") -> list[list[Pair]]:
    """The pairs of every text by its first tokenizer: SDXL's two split words alike."""
    tokenizer = tokenizers(pipe)[0]
    found = []
    for text, phrases in zip(texts, parse(texts, parser), strict=True):
        mine = []
        for phrase in phrases:
            noun, *modifiers = (
                tuple(token_span(tokenizer, text, span)) for span in (phrase.noun, *phrase.modifiers)
            )
            inside = {*noun, *(position for modifier in modifiers for position in modifier)}
            outside = tuple(i for i in token_span(tokenizer, text, (0, len(text))) if i not in inside)
            mine += [Pair(modifier, noun, outside) for modifier in modifiers if modifier and noun]
        found.append(mine)
    return found


class _SynGen:
    def __init__(self, pipe: Pipeline, pairs: list[list[Pair]], step: float, until: float) -> None:
        self._pipe, self._pairs, self._step, self._until = pipe, pairs, step, until

    def shift(
        self, rows: Sequence[int], latents: torch.Tensor, share: float, look: Look
    ) -> torch.Tensor | None:
        """One step down the gradient of the loss of every image whose text has pairs, zero for the others."""
        chosen = [i for i, row in enumerate(rows) if self._pairs[row]]
        if share >= self._until or not chosen:
            return None
        pixels = latents.shape[2] * latents.shape[3] * self._pipe.vae_scale_factor**2
        size = max(1, GRADIENT_PIXELS // pixels)
        factor = _FLOAT16 if self._pipe.unet.dtype == torch.float16 else 1.0
        moved = torch.zeros_like(latents)
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            with torch.inference_mode(False), torch.enable_grad():
                x = latents[part].clone().requires_grad_()
                total = loss(look(x, part), [self._pairs[rows[i]] for i in part]).sum()
                (gradient,) = torch.autograd.grad(total * factor, x)
            moved[part] = gradient * (-self._step / factor)
        return moved


def loss(maps: torch.Tensor, pairs: Sequence[Sequence[Pair]]) -> torch.Tensor:
    """The loss of each image [n], from their maps [n, places, tokens], fp32, and their texts' pairs."""
    apart = distances(maps)
    found = apart.detach().cpu().numpy()
    weights = np.stack([_weights(*one) for one in zip(found, pairs, strict=True)])
    return (torch.from_numpy(weights).to(apart) * apart).sum(dim=(1, 2))


def distances(maps: torch.Tensor) -> torch.Tensor:
    """D of the maps of any two tokens: [n, tokens, tokens], of [n, places, tokens]."""
    p = (maps / maps.sum(dim=1, keepdim=True)).transpose(1, 2)
    cross = p @ p.clamp_min(1e-12).log().transpose(1, 2)  # sum of p log q
    own = cross.diagonal(dim1=1, dim2=2)
    return (own[:, :, None] + own[:, None] - cross - cross.transpose(1, 2)) / 2


def _weights(apart: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
    """How much the distance of any two tokens [tokens, tokens] counts in an image's loss: of a word's several tokens
    only the largest one does."""
    weights = np.zeros_like(apart)
    for pair in pairs:
        weights[max(product(pair.modifier, pair.noun), key=lambda tokens: apart[tokens])] += 1
        for word, other in product((pair.modifier, pair.noun), pair.outside):
            weights[max(word, key=lambda token: apart[token, other]), other] -= 0.5 / len(pair.outside)
    return weights
