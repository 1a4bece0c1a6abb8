"""What conditions the UNet besides the noisy latents: encoded texts and, for SDXL, sizes and crops.

Stable Diffusion attends to one text encoder's states. SDXL (arXiv 2307.01952) attends to two encoders' states side
by side, and adds to its time embedding the second encoder's pooled state and six numbers ("time ids").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from selma.ground.errors import UserError

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline


@dataclass(frozen=True)
class Conditioning:
    """Encoded texts.

    states  [n, tokens, width], what the UNet's cross-attention reads
    pooled  [n, width], SDXL only, None for other backbones
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def __getitem__(self, rows: Any) -> Conditioning:
        """The texts at `rows` (a slice, a list or a tensor of indices)."""
        return Conditioning(self.states[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, *args: Any) -> Conditioning:
        """A copy on another device, in another dtype, or both, like `torch.Tensor.to`."""
        return Conditioning(self.states.to(*args), None if self.pooled is None else self.pooled.to(*args))

    def unet_inputs(self, time_ids: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of the UNet's forward; `time_ids` [n, 6] are left out unless it takes them."""
        inputs: dict[str, Any] = {"encoder_hidden_states": self.states}
        if self.pooled is not None:
            inputs["added_cond_kwargs"] = {"text_embeds": self.pooled, "time_ids": time_ids}
        return inputs


@dataclass(frozen=True)
class TokenIds:
    """Texts that are not encoded yet, in the place of Conditioning: `ids` int64 [n, encoders, tokens]."""

    ids: torch.Tensor

    def __getitem__(self, rows: Any) -> TokenIds:
        """The texts at `rows` (a slice, a list or a tensor of indices)."""
        return TokenIds(self.ids[rows])

    def to(self, *args: Any) -> TokenIds:
        """A copy on another device; ids stay whole numbers whatever the dtype."""
        return TokenIds(self.ids.to(*[arg for arg in args if not isinstance(arg, torch.dtype)]))

    def unet_inputs(self, time_ids: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of selma.lora.text.WithTexts' forward."""
        return {"ids": self.ids, "time_ids": time_ids}


def concatenate(parts: list[Conditioning] | list[TokenIds]) -> Conditioning | TokenIds:
    """Concatenate along the texts, which are all encoded or all token ids."""
    if isinstance(parts[0], TokenIds):
        return TokenIds(torch.cat([part.ids for part in parts]))
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None)


def time_ids(
    original: tuple[int, int], corner: tuple[int, int], target: tuple[int, int]
) -> tuple[int, int, int, int, int, int]:
    """SDXL's size and crop conditioning, in pixels and each (height, width) or (top, left).

    `original` is the image's size before it was resized, `corner` where its crop began, `target` the crop's size.
    """
    return (*original, *corner, *target)


@torch.no_grad()
def encode_texts(pipe: Pipeline, texts: list[str], batch: int = 64) -> Conditioning:
    """Encode texts in the pipeline's dtype, onto the CPU; the empty text is guidance's unconditional input.

    For most backbones that is the empty caption's states; SDXL base was trained on zeros in its place, and says
    so (`force_zeros_for_empty_prompt`). Batches have a fixed size, the last one padded with empty texts, so that
    shapes are static. Raises UserError, naming the text, for an encoding that is not finite.
    """
    batch = min(batch, len(texts))
    parts = []
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        padded = part + [""] * (batch - len(part))
        encoded = pipe.encode_prompt(
            padded, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        # SDXL returns four: states, negative states, pooled, negative pooled
        pooled = encoded[2] if len(encoded) == 4 else None
        parts.append(Conditioning(encoded[0], pooled)[: len(part)].to("cpu"))
    whole = concatenate(parts)
    for row, text in enumerate(texts):
        if not all(
            tensor[row].isfinite().all() for tensor in (whole.states, whole.pooled) if tensor is not None
        ):
            raise UserError(
                f"{text!r}: its encoding is not finite in {whole.states.dtype}; try another runtime.dtype"
            )
    if getattr(pipe.config, "force_zeros_for_empty_prompt", False):
        empty = [row for row, text in enumerate(texts) if not text]
        for tensor in (whole.states, whole.pooled):
            if tensor is not None:
                tensor[empty] = 0
    return whole


def token_ids(pipe: Pipeline, texts: list[str]) -> TokenIds:
    """Texts as the pipeline's text encoders read them, padded and cut to their length, on its device."""
    parts = []
    for name in ("tokenizer", "tokenizer_2"):
        if (tokenizer := getattr(pipe, name, None)) is not None:
            length = tokenizer.model_max_length
            found = tokenizer(texts, padding="max_length", max_length=length, truncation=True)
            parts.append(torch.tensor(found["input_ids"]))
    return TokenIds(torch.stack(parts, 1).to(pipe.device))
