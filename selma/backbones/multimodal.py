"""Multimodal backbones: one language model that draws images as tokens, reads images, and answers questions on them.

A folder in transformers' layout, of a class that transformers loads for both: `JanusForConditionalGeneration` (Janus
and Janus-Pro, arXiv 2410.13848 and 2501.17811; the embedded `shapes_mm` is of that class, too).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selma.backbones.opening import open_model, open_part
from selma.ground.adapters import LANGUAGE, Adapter, part_of, read_adapter
from selma.ground.errors import UserError
from selma.runtime.devices import enough_memory, pick_device

if TYPE_CHECKING:
    from PIL.Image import Image

_TOKENS = ("image_token", "boi_token", "eoi_token")  # what a tokenizer needs to speak of images
_WHAT = "this backbone"
_FEATURES = 64  # images that the vision tower sees at once
_DECODED = 16  # images that the decoder makes at once


def load_multimodal(folder: Path, device: str, dtype: str, lora: Path | None = None) -> Multimodal:
    """The model of a folder on a device (a value of runtime.device), in eval mode, every parameter frozen.

    Only safetensors are read, nothing is downloaded and no code of the folder's runs. Raises UserError where the
    folder is corrupt, cannot draw or cannot answer, and for a LoRA that is broken or of another backbone.
    """
    from transformers import JanusForConditionalGeneration, JanusProcessor

    adapter = read_adapter(lora) if lora else None
    processor = open_part(JanusProcessor, folder, _WHAT)
    model, missing = open_model(JanusForConditionalGeneration, folder, dtype, _WHAT)
    if missing:
        raise UserError(
            f"{folder}: {_WHAT} cannot be opened (its weights lack {missing[0]}, {len(missing)} tensors in total)"
        )
    _check(folder, model, processor)
    with enough_memory("this backbone needs another runtime.device, or bfloat16 as runtime.dtype"):
        model.to(pick_device(device))
    opened = Multimodal(model.eval().requires_grad_(False), processor)
    if adapter:
        put_lora(opened, adapter, lora)
    return opened


def _check(folder: Path, model: Any, processor: Any) -> None:
    """Raise UserError unless the model can be asked to draw and to answer."""
    tokenizer = processor.tokenizer
    for name in _TOKENS:
        token = getattr(tokenizer, name, None)
        if token is None or tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
            raise UserError(
                f"{folder}: its tokenizer has no {name}, so this model cannot be asked to draw or to look"
            )
    if tokenizer.bos_token is None or tokenizer.eos_token is None:
        raise UserError(f"{folder}: its tokenizer has no bos_token or eos_token, between which texts stand")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not processor.chat_template:
        raise UserError(f"{folder}: has no chat template, by which questions are put to the model")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise UserError(
            f"{folder}: a tokenizer of {len(tokenizer)} tokens does not fit the model, which has "
            f"{model.get_input_embeddings().num_embeddings}"
        )
    ours, theirs = model.config.vision_config.num_image_tokens, processor.num_image_tokens
    if ours != theirs:
        raise UserError(f"{folder}: the model reads {ours} tokens of an image, its processor writes {theirs}")


@dataclass(frozen=True)
class Multimodal:
    """A multimodal model and its processor: how it is asked to draw, and what it says of images."""

    model: Any
    processor: Any

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return self.model.dtype

    @property
    def tokenizer(self) -> Any:
        """The processor's."""
        return self.processor.tokenizer

    @property
    def image_tokens(self) -> int:
        """How many tokens an image is drawn as."""
        return self.model.model.vqmodel.config.num_patches**2

    @property
    def width(self) -> int:
        """Numbers of a state of the language model."""
        return self.model.config.text_config.hidden_size

    @property
    def side(self) -> int:
        """Pixels of each side of an image."""
        vq = self.model.model.vqmodel.config
        return vq.num_patches * 2 ** (len(vq.channel_multiplier) - 1)

    @cached_property
    def kept(self) -> torch.Tensor:
        """The ids that an empty prompt keeps: of the text's and of the image's beginning."""
        tokenizer = self.tokenizer
        return torch.tensor([tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(tokenizer.boi_token)])

    @property
    def pad(self) -> int:
        """The id that stands for no word."""
        return self.tokenizer.pad_token_id

    def prompts(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [n, longest], padded on the left, of all that stands before an image's first token, and their mask
        [n, longest], False on padding; both on the CPU."""
        self._check_words(texts)
        asked = [self._chat([{"type": "text", "text": text}]) for text in texts]
        inputs = self.processor(
            text=asked, generation_mode="image", padding=True, padding_side="left", return_tensors="pt"
        )
        return inputs["input_ids"], inputs["attention_mask"].bool()

    def questions(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of questions on an image, each up to the answer; the image's own tokens are placeholders.

        As the processor makes them, with its system prompt where it has one (Janus-Pro does).
        """
        from transformers.models.janus.processing_janus import DEFAULT_SYSTEM_PROMPT

        self._check_words(texts)
        before = DEFAULT_SYSTEM_PROMPT if self.processor.use_default_system_prompt else ""
        asked = [self._chat([{"type": "image"}, {"type": "text", "text": text}]) for text in texts]
        token, processor = self.tokenizer.image_token, self.processor
        image = processor.image_start_token + token * processor.num_image_tokens + processor.image_end_token
        return self.tokenizer([before + text.replace(token, image) for text in asked])["input_ids"]

    def without_words(self, ids: torch.Tensor) -> torch.Tensor:
        """Prompts' ids with padding in the place of words: what guidance leads away from, as in transformers' own
        `JanusForConditionalGeneration.generate`."""
        return torch.where(torch.isin(ids, self.kept.to(ids.device)), ids, self.pad)

    @torch.inference_mode()
    def features(self, images: Sequence[Image]) -> torch.Tensor:
        """What the language model reads of images: [n, tokens, width]."""
        parts = []
        for start in range(0, len(images), _FEATURES):
            seen = self.processor.image_processor(
                list(images[start : start + _FEATURES]), return_tensors="pt"
            )
            pixels = seen["pixel_values"].to(self.device, self.dtype)
            parts.append(self.model.model.get_image_features(pixels, return_dict=True).pooler_output)
        return torch.cat(parts)

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor) -> list[Image]:
        """RGB images of image tokens, int64 [n, image_tokens]."""
        from PIL import Image as pil

        kind = self.processor.image_processor
        mean, std = (torch.tensor(value) for value in (kind.image_mean, kind.image_std))
        found = []
        with enough_memory("lower drawing.batch"):
            for some in tokens.split(_DECODED):
                pixels = (
                    self.model.decode_image_tokens(some.to(self.device)).float().cpu()
                )  # [n, height, width, 3]
                values = ((pixels * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
                found += [pil.fromarray(value) for value in values]
        return found

    @torch.inference_mode()
    def encode(self, images: Sequence[Image], batch: int = 32) -> torch.Tensor:
        """Image tokens, int64 [n, image_tokens] on the CPU, of RGB images of any size, fitted to the model's own."""
        from PIL import Image as pil
        from PIL import ImageOps

        kind, found = self.processor.image_processor, []
        mean, std = (torch.tensor(value)[:, None, None] for value in (kind.image_mean, kind.image_std))
        for start in range(0, len(images), batch):
            fitted = [
                np.asarray(ImageOps.fit(image, (self.side, self.side), pil.Resampling.LANCZOS))
                for image in images[start : start + batch]
            ]
            pixels = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).contiguous().float() / 255
            encoded = self.model.model.vqmodel.encode(((pixels - mean) / std).to(self.device, self.dtype))
            found.append(encoded.image_tokens.view(len(fitted), -1).cpu())
        return torch.cat(found)

    def _check_words(self, texts: Sequence[str]) -> None:
        """Raise UserError for a text with a token that stands for an image."""
        for name in _TOKENS:
            token = getattr(self.tokenizer, name)
            if found := next((text for text in texts if token in text), None):
                raise UserError(
                    f"{found[:80]!r}: holds {token}, which stands for an image; leave it out of texts"
                )

    def _chat(self, content: list[dict[str, str]]) -> str:
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        begin = self.tokenizer.bos_token
        return (
            text.removeprefix(begin) if begin and text.startswith(begin) else text
        )  # the tokenizer adds its own


def layers(opened: Multimodal) -> Mapping[str, torch.nn.Module]:
    """The layers that a LoRA may adapt, the language model's, by the names that selma/ground/adapters.py gives them."""
    found = opened.model.model.language_model.named_modules()
    return {f"{LANGUAGE}.{name}": layer for name, layer in found if isinstance(layer, torch.nn.Linear)}


def put_lora(opened: Multimodal, adapter: Adapter, folder: Path | None) -> None:
    """Add a LoRA's updates to the weights of its layers, at weight 1; in half precision beside them.

    Raises UserError for a layer that the model does not have.
    """
    known, scale = layers(opened), adapter.card["alpha"] / adapter.card["rank"]
    for name, (a, b) in adapter.factors.items():
        weight = getattr(known.get(name), "weight", None)
        if part_of(name)[0] != LANGUAGE or weight is None or weight.shape != (b.shape[0], a.shape[1]):
            raise UserError(
                f"{folder}: {name} is of shape {(b.shape[0], a.shape[1])}; this backbone has no such layer"
            )
    for name, factors in adapter.factors.items():
        layer = known[name]
        a, b = (factor.to(layer.weight.device) for factor in factors)
        if layer.weight.dtype == torch.float32:
            layer.weight.data.addmm_(b, a, alpha=scale)
        else:  # in half precision the sum would round the small update away
            layer.register_forward_hook(_beside(a.to(layer.weight.dtype), b.to(layer.weight.dtype), scale))


def _beside(a: torch.Tensor, b: torch.Tensor, scale: float) -> Any:
    return lambda layer, inputs, output: output + scale * (inputs[0] @ a.t()) @ b.t()
