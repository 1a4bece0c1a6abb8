"""BLIP fine-tuned on VQA (Li et al. 2022, arXiv 2201.12086) as a judge, by transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BlipForQuestionAnswering, BlipProcessor

from selma.judging.generation import SETTINGS, Reader, to_model
from selma.judging.opening import load_model, load_part
from selma.judging.vqa import Said, VqaJudge, load_matcher

ANSWERS, SCORES = True, True
NEEDS = ("weights",)
TAKES = ("matcher",)


class BlipVqa:
    """Calls the model's parts one by one, so that it sees the image once, and asks questions one by one.

    transformers' own decoder attends to the padding of a shorter question, so its answer would depend on the others.
    """

    def __init__(self, model: BlipForQuestionAnswering, processor: BlipProcessor, folder: Path) -> None:
        self._model, self._processor = model, processor
        self._reader = Reader(processor.tokenizer, folder)

    @torch.inference_mode()
    def reply(self, image: Image.Image, texts: Sequence[str]) -> list[Said]:
        pixels = to_model(self._processor(images=image, return_tensors="pt"), self._model)["pixel_values"]
        seen = self._model.vision_model(pixel_values=pixels).last_hidden_state
        return [self._ask(seen, text) for text in texts]

    def _ask(self, seen: torch.Tensor, text: str) -> Said:
        """The answer to one question, from the image's states [1, patches, width]."""
        model, config = self._model, self._model.config.text_config
        tokens = self._processor.tokenizer(text, return_tensors="pt").to(seen.device)
        read = model.text_encoder(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=seen,
        ).last_hidden_state
        output = model.text_decoder.generate(
            input_ids=torch.full((1, 1), model.decoder_start_token_id, device=seen.device),
            eos_token_id=config.sep_token_id,
            pad_token_id=config.pad_token_id,
            encoder_hidden_states=read,
            **SETTINGS,
        )
        return self._reader.read(output)[0]


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """BLIP VQA reads the question as it is."""
    model = load_model(BlipForQuestionAnswering, folder, device, dtype)
    processor = load_part(BlipProcessor, folder)
    return VqaJudge(BlipVqa(model, processor, folder), lambda question: question.text, load_matcher(folder))
