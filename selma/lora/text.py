"""A trainable LoRA on the text encoders, beside the UNet's: captions are then encoded anew in every step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selma.backbones.conditioning import token_ids
from selma.backbones.parts import text_encoders
from selma.ground.adapters import TEXT_ENCODERS, layer_of
from selma.lora.adapter import add_lora, lora_state
from selma.lora.files import save_lora

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline

TEXT_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
)  # an encoder's attention, as diffusers' own trainers


class WithTexts(torch.nn.Module):
    """A UNet and its text encoders as one model, called like a UNet, with `ids` and `time_ids` for the texts."""

    def __init__(self, pipe: Pipeline) -> None:
        """The UNet and the encoders are those of the pipeline, with the adapters that they have."""
        super().__init__()
        self.unet = pipe.unet
        self.encoders = torch.nn.ModuleList(text_encoders(pipe))
        zeros = getattr(pipe.config, "force_zeros_for_empty_prompt", False)
        self._empty = token_ids(pipe, [""]).ids if zeros else None

    def enable_gradient_checkpointing(self) -> None:
        """Keep fewer activations, of UNet and encoders, and compute them again: less memory, the same gradients."""
        self.unet.enable_gradient_checkpointing()
        for encoder in self.encoders:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
            encoder.train()  # transformers checkpoints in training alone; CLIP has no dropout that would wake up

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's."""
        return self.unet.dtype

    def forward(
        self,
        noisy: torch.Tensor,
        times: torch.Tensor,
        *,
        ids: torch.Tensor,
        time_ids: torch.Tensor,
        **options: Any,
    ) -> Any:
        """What the UNet predicts for noisy latents at their times, and texts that are encoded here."""
        states, pooled = self.encode(ids)
        inputs: dict[str, Any] = {"encoder_hidden_states": states}
        if pooled is not None:
            inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids}
        return self.unet(noisy, times, **inputs, **options)

    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States [n, tokens, width] and, of SDXL, pooled ones [n, width], as diffusers' `encode_prompt` makes them.

        A text that stands in several rows is encoded once.
        """
        ids, row = torch.unique(ids, dim=0, return_inverse=True)
        states, pooled = self._encode(ids)
        return states[row], None if pooled is None else pooled[row]

    def _encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if len(self.encoders) == 1:
            return self.encoders[0](ids[:, 0])[0].to(self.dtype), None
        found = [encoder(ids[:, i], output_hidden_states=True) for i, encoder in enumerate(self.encoders)]
        states, pooled = torch.cat([each.hidden_states[-2] for each in found], -1), found[1][0]
        if self._empty is not None:
            said = (ids != self._empty).flatten(1).any(1)
            states, pooled = states * said[:, None, None], pooled * said[:, None]
        return states.to(self.dtype), pooled.to(self.dtype)

    def state(self) -> dict[str, torch.Tensor]:
        """All adapters on the CPU, under the names of LoraWeights' modules."""
        found = lora_state(self.unet) if hasattr(self.unet, "peft_config") else {}
        for name, encoder in zip(TEXT_ENCODERS, self.encoders, strict=False):
            for key, value in lora_state(encoder).items():
                found[layer_of(name, key)] = value
        return found


def add_text_lora(pipe: Pipeline, rank: int, alpha: float, seed: int, section: str = "expert") -> WithTexts:
    """Put a trainable adapter on every text encoder, as `add_lora` did on the UNet; the model that trains them all."""
    for number, encoder in enumerate(text_encoders(pipe)):
        add_lora(encoder, rank, alpha, list(TEXT_TARGETS), seed + 1 + number, section)
    return WithTexts(pipe)


def save_with_texts(model: WithTexts, folder: Path, provenance: dict, dtype: torch.dtype) -> None:
    """Write all adapters as one LoRA folder."""
    save_lora(folder, model.state(), provenance, dtype)
