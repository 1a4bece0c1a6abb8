"""BLIP VQA, BLIP-2 and InstructBLIP as judges, by transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipForQuestionAnswering,
    BlipProcessor,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)

from selma.benchmarks import Question
from selma.judges.generation import SETTINGS, Reader, to_model
from selma.judges.vqa import Said, VqaJudge, load_matcher
from selma.judges.weights import load_model, load_part


class BlipVqa:
    """BLIP (Li et al. 2022, arXiv 2201.12086) fine-tuned on VQA.

    Its parts are called one by one, so that it sees the image once, and questions one by one: transformers' own
    decoder attends to the padding of a shorter question, so its answer would depend on those beside it.
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


class QFormerVqa:
    """BLIP-2 (arXiv 2301.12597) and InstructBLIP (arXiv 2305.06500), with OPT, T5 or Vicuna."""

    def __init__(self, model: Any, processor: Any, folder: Path) -> None:
        self._model, self._processor = model, processor
        # A decoder goes on from the last token, which must be none of the padding.
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


def load_blip_vqa(folder: Path, device: str, dtype: str) -> VqaJudge:
    """BLIP VQA reads the question as it is."""
    model = load_model(BlipForQuestionAnswering, folder, device, dtype)
    processor = load_part(BlipProcessor, folder)
    return VqaJudge(BlipVqa(model, processor, folder), lambda question: question.text, load_matcher(folder))


def load_blip2(folder: Path, device: str, dtype: str) -> VqaJudge:
    """BLIP-2 in its paper's form for VQA."""

    def prompt(question: Question) -> str:
        return f"Question: {question.text} Answer:"

    model = load_model(Blip2ForConditionalGeneration, folder, device, dtype)
    return VqaJudge(
        QFormerVqa(model, load_part(Blip2Processor, folder), folder), prompt, load_matcher(folder)
    )


def load_instructblip(folder: Path, device: str, dtype: str) -> VqaJudge:
    """InstructBLIP in its paper's form for short answers."""

    def prompt(question: Question) -> str:
        return f"Question: {question.text} Short answer:"

    model = load_model(InstructBlipForConditionalGeneration, folder, device, dtype)
    processor = load_part(InstructBlipProcessor, folder)
    return VqaJudge(QFormerVqa(model, processor, folder), prompt, load_matcher(folder))
