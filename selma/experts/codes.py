"""Captions and image tokens: what a multimodal backbone trains on instead of latents.

Images that the backbone drew come with the tokens that it drew them by; other images are encoded. Each step computes
log-probabilities of an image's tokens after its caption's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selma.experts.draws import batch_indices, generator
from selma.experts.noisy import Parts
from selma.ground.adapters import LANGUAGE
from selma.ground.errors import UserError
from selma.ground.files import atomic
from selma.ground.pairs import read_image
from selma.lora.adapter import lora_state
from selma.lora.files import save_lora

if TYPE_CHECKING:
    from selma.backbones.multimodal import Multimodal
    from selma.ground.pairs import Pair
    from selma.runtime.params import Training

_AT_ONCE = 32  # sequences of which log-probabilities are computed at once, where nothing is learnt


@dataclass(frozen=True)
class Codes(Parts):
    """Captions and image tokens of n images, all on one device.

    ids, mask    [n, longest], captions up to the image's first token, padded on the left, and `empty`, the same without
                 their words
    codes        [n, tokens], the image's
    losers       [n, tokens], the tokens of the images that lost against these; None: the data hold no pairs
    reference    [n], log-probabilities of `codes` by the model that training starts from, and `lost`, of `losers`
    """

    ids: torch.Tensor
    mask: torch.Tensor
    empty: torch.Tensor
    codes: torch.Tensor
    losers: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    lost: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.codes.device

    @property
    def numbers(self) -> int:
        """Numbers that hold one example, a pair of images counted as two."""
        return self.ids.shape[1] + self.codes.shape[1] * (1 if self.losers is None else 2)

    pixels = numbers  # what parts of a batch are measured by


class Writer(torch.nn.Module):
    """A multimodal model as what learns to write an image's tokens; its language model holds the adapter."""

    def __init__(self, opened: Multimodal) -> None:
        super().__init__()
        self.opened = opened
        self.language_model = opened.model.model.language_model

    @property
    def dtype(self) -> torch.dtype:
        """The model's."""
        return self.opened.dtype

    def enable_gradient_checkpointing(self) -> None:
        """Keep fewer activations and compute them again: less memory, the same gradients."""
        self.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        self.language_model.train()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Log-probability of every image token, given the caption and the tokens before it: [n, tokens], fp32."""
        model = self.opened.model
        shown = model.prepare_embeddings_for_image_generation(codes[:, :-1])
        states = self.language_model(
            inputs_embeds=torch.cat([model.get_input_embeddings()(ids), shown], 1),
            attention_mask=torch.cat([mask, torch.ones_like(codes[:, 1:], dtype=torch.bool)], 1),
            use_cache=False,
        ).last_hidden_state
        logits = model.model.generation_head(states[:, -codes.shape[1] :]).float()
        return logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]


def of_pairs(
    file: Path, opened: Multimodal, pairs: Sequence[Pair], losers: bool, writer: Writer | None
) -> Codes:
    """The captions and tokens of image-text pairs, kept in a file; with `losers` those of the images that lost, too.

    With a `writer` the log-probabilities by what it is now are computed once: it is the reference. Raises UserError for
    images that cannot be read, and for tokens that the backbone does not have.
    """
    from safetensors.torch import load_file, save_file

    if not file.is_file():
        ids, mask = opened.prompts([pair.text for pair in pairs])
        found: dict[str, Any] = {"ids": ids, "mask": mask, "empty": opened.without_words(ids)}
        found["codes"] = _tokens(opened, pairs, "tokens", "file")
        if losers:
            found["losers"] = _tokens(opened, pairs, "rejected_tokens", "rejected")
        if writer is not None:
            found["reference"] = _log_probabilities(writer, ids, mask, found["codes"])
            if losers:
                found["lost"] = _log_probabilities(writer, ids, mask, found["losers"])
        with atomic(file) as temporary:
            save_file({name: each.cpu().contiguous() for name, each in found.items()}, temporary)
    return Codes(**load_file(file, device=str(opened.device)))


def _tokens(opened: Multimodal, pairs: Sequence[Pair], tokens: str, file: str) -> torch.Tensor:
    """The tokens [n, tokens] that images were drawn by; of those of which none are known, by encoding them."""
    codes = opened.model.model.vqmodel.config.num_embeddings
    found: list[torch.Tensor | None] = []
    for pair in pairs:
        drawn = getattr(pair, tokens)
        if drawn is not None and (len(drawn) != opened.image_tokens or max(drawn) >= codes):
            raise UserError(
                f"{getattr(pair, file)}: its metadata has {len(drawn)} {tokens}, up to {max(drawn)}; this backbone has "
                f"{opened.image_tokens} of an image, below {codes}; draw it again"
            )
        found.append(None if drawn is None else torch.tensor(drawn))
    unknown = [i for i, each in enumerate(found) if each is None]
    for start in range(0, len(unknown), _AT_ONCE):  # images are read a few at a time
        some = unknown[start : start + _AT_ONCE]
        encoded = opened.encode([read_image(getattr(pairs[i], file)) for i in some])
        for i, each in zip(some, encoded, strict=True):
            found[i] = each
    return torch.stack(found)


@torch.no_grad()
def _log_probabilities(
    writer: Writer, ids: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor
) -> torch.Tensor:
    """The log-probability of each image, the sum of its tokens': [n] fp32."""
    device = writer.opened.device
    parts = zip(*(each.split(_AT_ONCE) for each in (ids, mask, codes)), strict=True)
    return torch.cat([writer(*(each.to(device) for each in part)).sum(1) for part in parts])


def draw_codes(schedule: None, examples: Codes, settings: Training, seed: int, step: int) -> Codes:
    """The examples of step `step` (from 0); captions are made empty with chance `caption_dropout`, by (seed, step)."""
    rows = batch_indices(len(examples), settings.batch, seed, step).to(examples.device)
    batch = examples[rows]
    if settings.caption_dropout == 0:
        return batch
    random = generator(seed, "caption", step)
    dropped = (torch.rand(len(rows), generator=random) < settings.caption_dropout).to(examples.device)
    return replace(batch, ids=torch.where(dropped[:, None], batch.empty, batch.ids))


def save_writer(writer: Writer, folder: Path, provenance: dict, dtype: torch.dtype) -> None:
    """Write the adapter as a LoRA folder."""
    state = lora_state(writer.language_model)
    save_lora(folder, {f"{LANGUAGE}.{key}": value for key, value in state.items()}, provenance, dtype)
