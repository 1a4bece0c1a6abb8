"""Draw images token by token, with a multimodal backbone: one seed per image, as everywhere.

Guidance is that of transformers' own `JanusForConditionalGeneration.generate`: logits are led away from those of the
prompt without its words. A token is drawn by inverting its distribution at a uniform number of its own, so what an
image shows does not depend on what is drawn beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

import torch

from selma.backbones.ahead import Stopped, ahead, plan
from selma.backbones.diversity import check_diversity, dropping, masks
from selma.backbones.multimodal import Multimodal
from selma.ground.errors import UserError
from selma.images.cache import room
from selma.runtime.candidates import DROPOUT, TEMPERATURE
from selma.runtime.devices import enough_memory
from selma.runtime.drawing import TOKENS

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.runtime.candidates import Diversity
    from selma.runtime.params import Drawing

PART = 4096  # image tokens that are drawn side by side on a CPU: 64 images of 64 tokens

Advance = Callable[[float], None]


def draw_tokens(
    pipe: Multimodal,
    texts: list[str],
    seeds: list[int],
    drawing: Drawing,
    *,
    method: str = "cfg",
    diversity: Diversity | None = None,
    done: Collection[int] = (),
    shard: tuple[int, int] = (1, 1),
    advance: Advance = lambda images: None,
) -> Iterator[tuple[int, Image]]:
    """Yield (i, RGB image) of texts[i], from seeds[i], in order, as `sampler.draw` does; the image's tokens are in its
    `info["tokens"]`.

    Raises UserError, before anything is drawn, for settings of a diffusion backbone, and where memory runs out.
    """
    check_drawing(pipe, drawing, method)
    check_diversity(diversity, multimodal=True)
    temperature = diversity.strength if diversity and diversity.method == TEMPERATURE else 1.0
    chance = diversity.strength if diversity and diversity.method == DROPOUT else None
    parts = plan(len(texts), drawing.batch, max(1, PART // pipe.image_tokens), pipe.device.type)

    def part(start: int, stop: Event) -> torch.Tensor:
        indices = [min(i, len(texts) - 1) for i in range(start, start + parts.size)]
        ids, mask = pipe.prompts([texts[i] for i in indices])
        uniform = torch.stack(
            [
                torch.rand(pipe.image_tokens, generator=torch.Generator().manual_seed(seeds[i]))
                for i in indices
            ]
        )
        share = len(wanted[start]) / pipe.image_tokens
        if chance is not None:
            kept = masks([seeds[i] for i in indices], pipe.width, chance).to(pipe.device)
            drop.mask = torch.cat([kept, kept]) if drawing.guidance > 1 else kept
        with enough_memory(f"lower drawing.batch ({drawing.batch} images at once)"):
            return sample(
                pipe,
                ids,
                mask,
                uniform,
                drawing.guidance,
                temperature,
                stop=stop,
                advance=lambda: advance(share),
            ).cpu()

    wanted = {
        start: [i for i in range(start, min(start + parts.size, len(texts))) if i not in done]
        for start in range(0, len(texts), parts.size)
    }
    starts = [start for start in list(wanted)[shard[0] - 1 :: shard[1]] if wanted[start]]
    with nullcontext(threading.local()) if chance is None else dropping(pipe) as drop:
        drawn = ahead((partial(part, start) for start in starts), parts.workers, parts.threads)
        try:
            for start, tokens in zip(starts, drawn, strict=True):
                images = pipe.decode(tokens)
                for i in wanted[start]:
                    image = images[i - start]
                    image.info["tokens"] = tokens[i - start].tolist()
                    yield i, image
        finally:
            drawn.close()


@torch.no_grad()
def sample(
    pipe: Multimodal,
    ids: torch.Tensor,
    mask: torch.Tensor,
    uniform: torch.Tensor,
    guidance: float,
    temperature: float = 1.0,
    *,
    stop: Event | None = None,
    advance: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Image tokens, int64 [n, tokens], of prompts (ids and mask [n, longest], padded on the left).

    `uniform` [n, tokens] in [0, 1) decides, token by token. Above a `guidance` of 1 every step makes two passes.
    Logits, guided ones, are divided by `temperature`.
    """
    model, device = pipe.model, pipe.device
    ids, mask, uniform = ids.to(device), mask.to(device), uniform.to(device, torch.float64)
    guided = guidance > 1
    if guided:
        ids, mask = torch.cat([ids, pipe.without_words(ids)]), torch.cat([mask, mask])
    cache = room(pipe.model, ids.shape[1] + uniform.shape[1])
    embedded = model.get_input_embeddings()(ids)
    found = []
    for at in range(uniform.shape[1]):
        if stop is not None and stop.is_set():
            raise Stopped
        states = model.model.language_model(
            inputs_embeds=embedded, attention_mask=mask, past_key_values=cache, use_cache=True
        ).last_hidden_state
        logits = model.model.generation_head(states[:, -1]).float()
        if guided:
            with_words, without = logits.chunk(2)
            logits = without + guidance * (with_words - without)
        token = invert((logits / temperature).softmax(-1), uniform[:, at])
        found.append(token)
        advance()
        both = torch.cat([token, token]) if guided else token
        embedded = model.prepare_embeddings_for_image_generation(both[:, None])
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return torch.stack(found, 1)


def invert(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token [n] at which the cumulated probabilities [n, codes] pass `uniform` [n], float64 in [0, 1)."""
    cumulated = probabilities.double().cumsum(-1)
    at = torch.searchsorted(cumulated, (uniform * cumulated[:, -1])[:, None], right=True)[:, 0]
    return at.clamp(max=probabilities.shape[-1] - 1)


def fitted(pipe: object, drawing: Drawing) -> Drawing:
    """The settings by which a backbone of either kind draws, where they were made for a diffusion backbone."""
    if not isinstance(pipe, Multimodal):
        return drawing
    return replace(drawing, scheduler=TOKENS, steps=pipe.image_tokens, resolution=pipe.side)


def check_drawing(pipe: Multimodal, drawing: Drawing, method: str) -> None:
    """Raise UserError for settings by which only a diffusion backbone can draw."""
    if drawing.scheduler != TOKENS:
        raise UserError(
            f"drawing.scheduler is {drawing.scheduler}; a multimodal backbone draws tokens one after another: {TOKENS}"
        )
    if drawing.steps != pipe.image_tokens:
        raise UserError(
            f"drawing.steps is {drawing.steps}; this backbone draws {pipe.image_tokens} tokens an image, one a step"
        )
    if drawing.resolution not in (None, pipe.side):
        raise UserError(
            f"drawing.resolution is {drawing.resolution}; this backbone draws {pipe.side} pixels alone"
        )
    if method != "cfg":
        raise UserError(
            f"guidance {method} needs a UNet's attention; a multimodal backbone is guided by cfg alone"
        )
