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
from selma.judging.opening import load_model, load_part
from selma.judging.vqa import Said, VqaJudge, instruct, load_matcher

ANSWERS, SCORES = True, True
NEEDS = ("weights",)
TAKES = ("matcher",)


class ChatVlm:
    """A chat model, asked one question about one image per conversation."""

    def __init__(self, model: Any, processor: Any, folder: Path) -> None:
        self._model, self._processor = model, processor
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # a decoder continues from the last token, which must not be padding
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._reader = Reader(tokenizer, folder)

    @torch.inference_mode()
    def reply(self, image: Image.Image, texts: Sequence[str]) -> list[Said]:
        prompts = [
            self._processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for text in texts
        ]
        inputs = self._processor(
            images=[[image]] * len(texts), text=prompts, padding=True, return_tensors="pt"
        )
        pad = self._processor.tokenizer.pad_token_id
        output = self._model.generate(**to_model(inputs, self._model), pad_token_id=pad, **SETTINGS)
        return self._reader.read(output)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """The judge, told to answer with a choice; raises UserError for a model without a chat template."""
    processor = load_part(AutoProcessor, folder)
    if not getattr(processor, "chat_template", None):
        raise UserError(f"{folder}: has no chat template; a chat model's folder is needed")
    model = load_model(AutoModelForImageTextToText, folder, device, dtype)
    return VqaJudge(ChatVlm(model, processor, folder), instruct, load_matcher(folder))
