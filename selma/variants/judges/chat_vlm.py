"""Any chat VLM that transformers loads as AutoModelForImageTextToText, as a judge.

Where torchvision is not installed, the model's processor must not need it; those with a video processor
(Qwen-VL's) do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from selma.ground.errors import UserError
from selma.judging.generation import SETTINGS, Reader, to_model
from selma.judging.groups import LocalModel, Said, parts
from selma.judging.opening import load_model, load_part
from selma.judging.prefix import Prefix, agree, shareable
from selma.judging.vqa import VqaJudge, instruct, load_matcher

ANSWERS, SCORES = True, True
NEEDS = ("weights",)
TAKES = ("matcher",)


class ChatVlm(LocalModel):
    """A chat model, asked one question about one image per conversation; conversations about an image share it."""

    def __init__(self, model: Any, processor: Any, folder: Path) -> None:
        self._model, self._processor = model, processor
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # a decoder continues from the last token, which must not be padding
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._reader = Reader(tokenizer, folder)
        self._shares: bool | None = None if shareable(model) else False  # None: not yet tried

    @torch.inference_mode()
    def reply(
        self, images: Sequence[Image.Image], texts: Sequence[tuple[int, str]], batch: int
    ) -> list[Said]:
        prompts = [(i, self._prompt(text)) for i, text in texts]
        if self._shares is None and len(prompts) > 1:
            # Whether a model reads its prompt from left to right, image first, is seen by trying.
            few = prompts[:batch]
            self._shares = agree(
                self._shared(images, few, batch), self._whole(images, few, batch), self._model
            )
        return (self._shared if self._shares else self._whole)(images, prompts, batch)

    def _prompt(self, text: str) -> str:
        return self._processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
            add_generation_prompt=True,
            tokenize=False,
        )

    def _inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        """What the model takes for a prompt about each image, padded on the left."""
        inputs = self._processor(
            images=[[image] for image in images], text=list(prompts), padding=True, return_tensors="pt"
        )
        return to_model(inputs, self._model)

    def _whole(
        self, images: Sequence[Image.Image], prompts: Sequence[tuple[int, str]], batch: int
    ) -> list[Said]:
        """Every prompt with an image of its own."""
        said: dict[int, Said] = {}
        for part in parts([len(prompt) for _, prompt in prompts], batch):
            inputs = self._inputs([images[prompts[n][0]] for n in part], [prompts[n][1] for n in part])
            output = self._model.generate(**inputs, pad_token_id=self._pad, **SETTINGS)
            said |= zip(part, self._reader.read(output), strict=True)
        return [said[n] for n in range(len(prompts))]

    def _shared(
        self, images: Sequence[Image.Image], prompts: Sequence[tuple[int, str]], batch: int
    ) -> list[Said] | None:
        """What all prompts begin with, the image included, is read once for each image; None if that cannot be."""
        tokens = [self._processor.tokenizer(prompt)["input_ids"] for _, prompt in prompts]
        inputs = self._inputs(images, [prompts[0][1]] * len(images))
        prefix = Prefix.read(self._model, inputs, tokens)
        if prefix is None:
            return None
        said: dict[int, Said] = {}
        for part in parts([len(own) for own in tokens], batch):
            rows = prefix.continued([prompts[n][0] for n in part], [tokens[n] for n in part], self._pad)
            output = self._model.generate(**rows, pad_token_id=self._pad, **SETTINGS)
            said |= zip(part, self._reader.read(output), strict=True)
        return [said[n] for n in range(len(prompts))]

    @property
    def _pad(self) -> int:
        return self._processor.tokenizer.pad_token_id


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """The judge, told to answer with a choice; raises UserError for a model without a chat template."""
    processor = load_part(AutoProcessor, folder)
    if not getattr(processor, "chat_template", None):
        raise UserError(f"{folder}: has no chat template; a chat model's folder is needed")
    model = load_model(AutoModelForImageTextToText, folder, device, dtype)
    return VqaJudge(ChatVlm(model, processor, folder), instruct, load_matcher(folder))
