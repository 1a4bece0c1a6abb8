"""StructureDiffusion (Feng et al., arXiv 2212.05032): every noun phrase is read as it is by itself, too.

With V_0 the states of the whole prompt and V_i the same with the tokens of noun phrase i in that phrase's own encoding,
cross-attention of the text's branch becomes (equation 6, keys from V_0)

    1/(k+1) sum_i softmax(Q K^T / sqrt d) (W_v V_i) = softmax(Q K^T / sqrt d) W_v mean_i V_i:

the values read the mean, nothing else changes, and a prompt without a noun phrase draws the plain model's image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selma.backbones.conditioning import encode_texts
from selma.backbones.parts import text_encoders
from selma.images.classifier_free import branches, combine
from selma.images.parsers import parse
from selma.images.spans import token_span, tokenizers

if TYPE_CHECKING:
    import torch

    from selma.backbones.conditioning import Conditioning
    from selma.backbones.loading import Pipeline

__all__ = ["branches", "combine", "prepare"]

OPTIONS = {"parser": {"default": "rules", "one_of": ("rules", "spacy")}}


class _Structure:
    """The states that values read, of every text."""

    def __init__(self, states: torch.Tensor) -> None:
        self._states = states

    def values(self, rows: Sequence[int]) -> torch.Tensor:
        """The means [n, tokens, width] of the texts at `rows`."""
        return self._states[rows]


def prepare(pipe: Pipeline, texts: Sequence[str], encoded: Conditioning, parser: str) -> _Structure:
    """The mean of V_0 to V_k of every text."""
    # a phrase of one word is none, as in the authors' code: by itself it has lost what it is about
    parsed = [
        [phrase for phrase in found if " " in text[slice(*phrase.span)]]
        for text, found in zip(texts, parse(texts, parser), strict=True)
    ]
    own = [text[slice(*phrase.span)] for text, found in zip(texts, parsed, strict=True) for phrase in found]
    unique = list(dict.fromkeys(own))
    if not unique:
        return _Structure(encoded.states)
    alone = dict(zip(unique, encode_texts(pipe, unique).states, strict=True))
    means = encoded.states.clone()
    widths = [encoder.config.hidden_size for encoder in text_encoders(pipe)]
    for mean, states, text, found in zip(means, encoded.states, texts, parsed, strict=True):
        whole = states.float()
        for phrase in found:
            itself = alone[text[slice(*phrase.span)]].float()
            first = 0  # of the encoder's columns: SDXL's two lie side by side
            for tokenizer, width in zip(tokenizers(pipe), widths, strict=True):
                at, columns = token_span(tokenizer, text, phrase.span), slice(first, first + width)
                change = itself[1 : 1 + len(at), columns] - whole[at.start : at.stop, columns]
                mean[at.start : at.stop, columns] += (change / (len(found) + 1)).to(mean.dtype)
                first += width
    return _Structure(means)
