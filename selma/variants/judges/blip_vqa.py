"""BLIP fine-tuned on VQA (Li et al. 2022, arXiv 2201.12086) as a judge, by transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BlipForQuestionAnswering, BlipProcessor

from selma.judging.generation import SETTINGS, Reader, to_model
from selma.judging.groups import LocalModel, Said, parts
from selma.judging.opening import load_model, load_part
from selma.judging.vqa import VqaJudge, load_matcher

ANSWERS, SCORES = True, True
NEEDS = ("weights",)
TAKES = ("matcher",)


class BlipVqa(LocalModel):
    """Calls the model's parts one by one, so that it sees an image once; a pass holds questions of one length.

    transformers' own decoder attends to the padding of a shorter question, so its answer would depend on the others.
    """

    def __init__(self, model: BlipForQuestionAnswering, processor: BlipProcessor, folder: Path) -> None:
        self._model, self._processor = model, processor
        self._reader = Reader(processor.tokenizer, folder)

    @torch.inference_mode()
    def reply(
        self, images: Sequence[Image.Image], texts: Sequence[tuple[int, str]], batch: int
    ) -> list[Said]:
        pixels = to_model(self._processor(images=list(images), return_tensors="pt"), self._model)
        seen = self._model.vision_model(pixel_values=pixels["pixel_values"]).last_hidden_state
        tokens = [self._processor.tokenizer(text)["input_ids"] for _, text in texts]
        said: dict[int, Said] = {}
        for part in parts([len(own) for own in tokens], batch, equal=True):
            rows = torch.tensor([texts[n][0] for n in part], device=seen.device)
            ids = torch.tensor([tokens[n] for n in part], device=seen.device)
            said |= zip(part, self._ask(seen[rows], ids), strict=True)
        return [said[n] for n in range(len(texts))]

    def _ask(self, seen: torch.Tensor, ids: torch.Tensor) -> list[Said]:
        """Answers to questions' tokens [n, length], from the images' states [n, patches, width]."""
        model, config = self._model, self._model.config.text_config
        read = model.text_encoder(
            input_ids=ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=seen
        ).last_hidden_state
        output = model.text_decoder.generate(
            input_ids=torch.full((len(ids), 1), model.decoder_start_token_id, device=seen.device),
            eos_token_id=config.sep_token_id,
            pad_token_id=config.pad_token_id,
            encoder_hidden_states=read,
            **SETTINGS,
        )
        return self._reader.read(output)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """BLIP VQA reads the question as it is."""
    model = load_model(BlipForQuestionAnswering, folder, device, dtype)
    processor = load_part(BlipProcessor, folder)
    return VqaJudge(BlipVqa(model, processor, folder), lambda question: question.text, load_matcher(folder))
