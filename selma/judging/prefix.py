"""What many prompts about one image begin with is read once: its keys and values are kept, and every prompt goes on.

This is exact where each token attends to those before it alone, and every token before to every later one. Models that
look back through a window, or at the whole prompt, are left to read each prompt from the beginning.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from selma.judging.groups import Said

TOKENS = {"input_ids", "attention_mask"}  # the inputs that hold a number a token


@dataclass(frozen=True)
class Prefix:
    """The beginnings of some images' prompts: `ids` and `mask` [images, length], padded on the left, and the cache.

    `length` is how many of a prompt's own tokens it covers, in which an image is one token.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    cache: DynamicCache
    length: int

    @classmethod
    def read(cls, model: Any, inputs: Any, tokens: Sequence[Sequence[int]]) -> Prefix | None:
        """What all of `tokens` begin with, read by `model` for each image of `inputs`.

        `tokens` are the prompts before the processor makes room for an image's tokens, `inputs` what it makes of the
        first of them for every image. None where that is not all of the image, or where the model's cache or inputs
        are not of the plain kind.
        """
        first = list(tokens[0])
        length = _common(tokens)
        rest = len(first) - length  # tokens of the first prompt after it
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        image = model.config.image_token_id
        if ids[:, -rest:].tolist() != [first[length:]] * len(ids) or image in first[length:]:
            return None
        if any(name not in TOKENS and not name.startswith(("pixel", "image")) for name in inputs):
            return None
        ids, mask = ids[:, :-rest], mask[:, :-rest]
        seen = {name: value for name, value in inputs.items() if name not in TOKENS}
        output = model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=_positions(mask), use_cache=True, **seen
        )
        cache = output.past_key_values
        plain = type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)
        return cls(ids, mask, cache, length) if plain else None

    def continued(self, images: Sequence[int], tokens: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
        """`generate`'s inputs for a prompt about each of `images`, by number; padding stands behind the prefix."""
        device = self.ids.device
        rests = [list(own[self.length :]) for own in tokens]
        longest = max(len(rest) for rest in rests)
        ids = torch.tensor([[pad] * (longest - len(rest)) + rest for rest in rests], device=device)
        mask = torch.tensor([[0] * (longest - len(rest)) + [1] * len(rest) for rest in rests], device=device)
        rows = torch.tensor(images, device=device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(rows)  # new tensors; the prefix's own stay as they are
        return {
            "input_ids": torch.cat([self.ids[rows], ids], dim=1),
            "attention_mask": torch.cat([self.mask[rows], mask], dim=1),
            "past_key_values": cache,
        }


def shareable(model: Any) -> bool:
    """Whether it is worth trying: the image is a token of its own, and positions are plain numbers."""
    own_cache = getattr(model.generation_config, "cache_implementation", None)
    return (
        getattr(model.config, "image_token_id", None) is not None
        and not model.config.is_encoder_decoder
        and not hasattr(model.base_model, "get_rope_index")
        and own_cache is None
    )


def agree(shared: Sequence[Said] | None, whole: Sequence[Said], model: Any) -> bool:
    """Whether replies are the same words with the same probabilities, as far as `model`'s precision goes."""
    near = 1e-4 if model.dtype == torch.float32 else 0.02
    return shared is not None and all(
        a.text == b.text and abs(a.yes - b.yes) <= near and abs(a.no - b.no) <= near
        for a, b in zip(shared, whole, strict=True)
    )


def _common(tokens: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with; each keeps at least one after them."""
    low, high = min(tokens), max(tokens)
    most = min(len(own) for own in tokens) - 1
    differ = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return min(most, next(differ, most))


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """The positions that `generate` gives to tokens: padding does not count."""
    return (mask.long().cumsum(dim=1) - 1).masked_fill(mask == 0, 0)
