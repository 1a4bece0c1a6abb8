"""Scores by the cosine of CLIP's two embeddings: PickScore, HPS v2.0 and v2.1, CLIPScore.

All run in float32 whatever runtime.dtype says: bfloat16 keeps three digits of a cosine, and the differences
that matter in these scores are in the third.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

import ftfy
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from selma.judging.opening import load_model, load_part

Pixels = Callable[[Image.Image, int], torch.Tensor]
Scale = Callable[[float, float], float]  # (cosine, exp(logit_scale)) -> score
Clean = Callable[[str], str]


class ClipScorer:
    """Score of an image for a prompt, from the cosine of their embeddings."""

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, *, pixels: Pixels, scale: Scale, words: Clean
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._pixels, self._scale, self._words = pixels, scale, words

    @torch.inference_mode()
    def score(self, image: Image.Image, prompt: str) -> float:
        """The score on the metric's published scale; texts longer than CLIP's 77 tokens are truncated."""
        config, device = self._model.config, self._model.device
        pixels = self._pixels(image, config.vision_config.image_size)[None].to(device)
        tokens = self._tokenizer(
            self._words(prompt),
            truncation=True,
            max_length=config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(device)
        seen = self._model.get_image_features(pixel_values=pixels).pooler_output[0]
        read = self._model.get_text_features(input_ids=tokens["input_ids"]).pooler_output[0]
        cosine = torch.nn.functional.cosine_similarity(seen, read, dim=0)
        return self._scale(cosine.item(), self._model.logit_scale.exp().item())


def open_clip_words(text: str) -> str:
    """A text as open_clip's SimpleTokenizer cleans it, which HPS v2 was trained and is published with.

    Wrong encodings, full width and curly quotes are mended (ftfy), HTML's entities resolved, twice because pages
    escape them twice; then single spaces and lower case.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def load_clip(folder: Path, device: str, pixels: Pixels, scale: Scale, words: Clean = str) -> ClipScorer:
    """The scorer in a judge's folder; its tokenizer is in tokenizer/ where its own repository has none.

    `words` is what the tokenizer is given for a prompt, by default the prompt itself.
    """
    model = load_model(CLIPModel, folder, device, "float32")
    own = folder / "tokenizer"
    tokenizer = load_part(CLIPTokenizer, own if own.is_dir() else folder)
    return ClipScorer(model, tokenizer, pixels=pixels, scale=scale, words=words)
