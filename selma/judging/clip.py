"""Scores by the cosine of CLIP's two embeddings: PickScore, HPS v2.0 and v2.1, CLIPScore.

All run in float32 whatever runtime.dtype says: bfloat16 keeps three digits of a cosine, and the differences
that matter in these scores are in the third.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path

import ftfy
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from selma.judging.groups import LocalScorer
from selma.judging.opening import load_model, load_part

Pixels = Callable[[Image.Image, int], torch.Tensor]
Scale = Callable[[float, float], float]  # (cosine, exp(logit_scale)) -> score
Clean = Callable[[str], str]


class ClipScorer(LocalScorer):
    """Score of an image for a prompt, from the cosine of their embeddings.

    Texts longer than CLIP's 77 tokens are truncated; a prompt of several images is read once.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, *, pixels: Pixels, scale: Scale, words: Clean
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._pixels, self._scale, self._words = pixels, scale, words

    @torch.inference_mode()
    def score_group(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        model = self._model
        side = model.config.vision_config.image_size
        pixels = torch.stack([self._pixels(image, side) for image in images]).to(model.device)
        unique = list(dict.fromkeys(prompts))
        seen = model.get_image_features(pixel_values=pixels).pooler_output
        read = model.get_text_features(input_ids=self._tokens(unique).to(model.device)).pooler_output
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=model.device)
        cosines = torch.nn.functional.cosine_similarity(seen, read[rows], dim=1)
        logit_scale = model.logit_scale.exp().item()
        return [self._scale(cosine, logit_scale) for cosine in cosines.tolist()]

    def _tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """Tokens [n, length]; the end is repeated as padding, which no token before it attends to."""
        most = self._model.config.text_config.max_position_embeddings
        tokens = [
            self._tokenizer(self._words(prompt), truncation=True, max_length=most)["input_ids"]
            for prompt in prompts
        ]
        longest = max(len(own) for own in tokens)
        return torch.tensor([own + own[-1:] * (longest - len(own)) for own in tokens])


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
