"""Where a model that draws token by token keeps its keys and values."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import DynamicLayer


def room(model: PreTrainedModel, tokens: int) -> Cache:
    """An empty cache for so many tokens, prompt and image together.

    On a GPU all of it is attended from the beginning, as in transformers' own `generate`, which drew three times as
    fast: where it grows, attention has another shape in every step, and probably kernels are planned anew for each. On
    a CPU attention is spared what is not there yet, and what is there is not copied in every step, as transformers'
    own growing cache does.
    """
    config = model.config.get_text_config()
    if model.device.type != "cpu":
        return StaticCache(config=config, max_cache_len=tokens)
    cache = DynamicCache()
    cache.layers = [_Filling(tokens) for _ in range(config.num_hidden_layers)]
    return cache


class _Filling(DynamicLayer):
    """Keys and values of one layer: the filled part of memory for `tokens` of them."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values so far, [n, heads, tokens, width], after these."""
        n, heads, new, width = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._all = key_states.new_empty(2, n, heads, self._tokens, width)
            self.keys = self.values = self._all[0, :, :, :0]
        filled = self.keys.shape[2]
        self._all[0, :, :, filled : filled + new] = key_states
        self._all[1, :, :, filled : filled + new] = value_states
        self.keys, self.values = self._all[:, :, :, : filled + new]
        return self.keys, self.values
