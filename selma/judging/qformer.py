"""BLIP-2 and InstructBLIP: a Q-Former between an image encoder and a language model, by transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from selma.ground.items import Question
from selma.judging.generation import SETTINGS, Reader, to_model
from selma.judging.opening import load_model, load_part
from selma.judging.vqa import Said, VqaJudge, load_matcher


class QFormerVqa:
    """BLIP-2 (arXiv 2301.12597) and InstructBLIP (arXiv 2305.06500), with OPT, T5 or Vicuna."""

    def __init__(self, model: Any, processor: Any, folder: Path) -> None:
        self._model, self._processor = model, processor
        # A decoder continues from the last token, which must not be padding.
        processor.tokenizer.padding_side = "right" if model.config.text_config.is_encoder_decoder else "left"
        # Checkpoints from before the processor made room for the image's tokens do not say how many there are.
        processor.num_query_tokens = model.config.num_query_tokens
        self._reader = Reader(processor.tokenizer, folder)

    @torch.inference_mode()
    def reply(self, image: Image.Image, texts: Sequence[str]) -> list[Said]:
        inputs = self._processor(
            images=[image] * len(texts), text=list(texts), padding=True, return_tensors="pt"
        )
        return self._reader.read(self._model.generate(**to_model(inputs, self._model), **SETTINGS))


def load_qformer(
    model: type, processor: type, form: Callable[[Question], str], folder: Path, device: str, dtype: str
) -> VqaJudge:
    """The judge in a folder, by transformers' classes; `form` words a question."""
    loaded = load_model(model, folder, device, dtype)
    vqa = QFormerVqa(loaded, load_part(processor, folder), folder)
    return VqaJudge(vqa, form, load_matcher(folder))
