"""A method of guidance as one drawing uses it: its file, its settings, and what it does besides combining predictions.

A file of selma/variants/guidance states

    branches(scale)                 what the UNet is run on at every step: ("text",) or ("empty", "text")
    combine(predictions, scale)     the prediction to step by, from the branches', fp32 [n, channels, h, w] each

and, if it has settings or acts on more than predictions, `OPTIONS` and `prepare(pipe, texts, encoded, **options)`,
called once for a drawing's prompts and their encodings. What that returns may have any of

    branches, combine               in the place of the file's own
    values(rows)                    what cross-attention's values read in the place of the texts' states
    shift(rows, latents, share, look)    what is added to the latents before a step

docs/guidance.md shows how to write one. What a method does not have costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selma.images.attention import Watcher
from selma.runtime import variants

if TYPE_CHECKING:
    import torch

    from selma.backbones.conditioning import Conditioning
    from selma.backbones.loading import Pipeline

# From latents of some of a batch's images, and which images they are, to the attention maps of their texts' tokens.
Look = Callable[["torch.Tensor", Sequence[int]], "torch.Tensor"]


class Guide:
    """The method `name` with its `options`, for prompts and their encodings; a text's row is its index in `texts`.

    Raises UserError for an unknown method, for options that it does not take, and where it lacks what it needs.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        pipe: Pipeline,
        texts: Sequence[str],
        encoded: Conditioning,
    ) -> None:
        module = variants.load("guidance", name, "guidance")
        options = variants.options("guidance", name, options, f"options of {name}")
        acts = module.prepare(pipe, texts, encoded, **options) if hasattr(module, "prepare") else None
        self.branches = getattr(acts, "branches", module.branches)
        self.combine = getattr(acts, "combine", module.combine)
        self._values, self._shift = getattr(acts, "values", None), getattr(acts, "shift", None)
        self.watcher = Watcher(pipe.unet) if self._shift else None

    def values(self, rows: Sequence[int]) -> torch.Tensor | None:
        """What the values of the texts at `rows` are projected from [n, tokens, width]; None: from their own states."""
        return self._values(rows) if self._values else None

    def shift(
        self, rows: Sequence[int], latents: torch.Tensor, share: float, look: Look
    ) -> torch.Tensor | None:
        """What is added to the latents [n, channels, h, w] (fp32, scaled as the UNet reads them) of the texts at
        `rows`, before the step at `share` (0 to 1) of all steps; None: nothing.

        `look(part, which)` runs the UNet on the latents `part` of the batch's images `which` and returns their maps
        (attention.py); gradients pass through it.
        """
        return self._shift(rows, latents, share, look)
