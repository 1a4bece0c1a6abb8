"""BLIP-2 and InstructBLIP: a Q-Former between an image encoder and a language model, by transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from selma.ground.items import Question
from selma.judging.generation import SETTINGS, Reader, to_model
from selma.judging.groups import LocalModel, Said, parts
from selma.judging.opening import load_model, load_part
from selma.judging.vqa import VqaJudge, load_matcher


class QFormerVqa(LocalModel):
    """BLIP-2 (arXiv 2301.12597) and InstructBLIP (arXiv 2305.06500), with OPT, T5 or Vicuna.

    An image is encoded once; InstructBLIP's Q-Former looks at it once a question, which it reads, BLIP-2's once.
    """

    def __init__(self, model: Any, processor: Any, folder: Path) -> None:
        self._model, self._processor = model, processor
        # A decoder continues from the last token, which must not be padding.
        processor.tokenizer.padding_side = "right" if model.config.text_config.is_encoder_decoder else "left"
        # Checkpoints from before the processor made room for the image's tokens do not say how many there are.
        processor.num_query_tokens = model.config.num_query_tokens
        self._reader = Reader(processor.tokenizer, folder)

    @torch.inference_mode()
    def reply(
        self, images: Sequence[Image.Image], texts: Sequence[tuple[int, str]], batch: int
    ) -> list[Said]:
        said: dict[int, Said] = {}
        pixels = to_model(self._processor.image_processor(list(images), return_tensors="pt"), self._model)
        seen = self._see(pixels["pixel_values"])
        for part in parts([len(text) for _, text in texts], batch):
            rows = torch.tensor([texts[n][0] for n in part], device=seen.device)
            output = self._ask(seen[rows], [texts[n][1] for n in part])
            said |= zip(part, self._reader.read(output), strict=True)
        return [said[n] for n in range(len(texts))]

    @property
    def _reads(self) -> bool:
        """Whether the Q-Former reads the text."""
        return hasattr(self._processor, "qformer_tokenizer")

    def _see(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of each image, the encoder's states [patches, width], or the language model's [queries, width] of it."""
        if self._reads:
            return self._model.vision_model(pixel_values=pixels).last_hidden_state
        return self._model.get_image_features(pixels).pooler_output

    def _ask(self, seen: torch.Tensor, texts: Sequence[str]) -> Any:
        """What the language model generates for a text about each row of `seen`, as the model's own `generate` does."""
        model = self._model
        inputs = to_model(self._processor(text=list(texts), padding=True, return_tensors="pt"), model)
        features = self._look(seen, inputs) if self._reads else seen
        # The image's tokens stand before the text's, its padding included, as the processor puts them.
        room = features.shape[:2]
        image = torch.full(room, model.config.image_token_id, device=seen.device)
        ids = torch.cat([image, inputs["input_ids"]], dim=1)
        mask = torch.cat([torch.ones_like(image), inputs["attention_mask"]], dim=1)
        embedded = model.get_input_embeddings()(ids)
        embedded[:, : room[1]] = features.to(embedded.dtype)
        own = {} if model.language_model.config.is_encoder_decoder else {"input_ids": ids}
        return model.language_model.generate(inputs_embeds=embedded, attention_mask=mask, **own, **SETTINGS)

    def _look(self, states: torch.Tensor, inputs: Any) -> torch.Tensor:
        """InstructBLIP's features [n, queries, width] of images, for what its Q-Former reads."""
        model = self._model
        queries = model.query_tokens.expand(len(states), -1, -1)
        mask = torch.ones(queries.shape[:2], dtype=torch.long, device=states.device)
        found = model.qformer(
            input_ids=inputs["qformer_input_ids"],
            attention_mask=torch.cat([mask, inputs["qformer_attention_mask"]], dim=1),
            query_embeds=queries,
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
        ).last_hidden_state
        return model.language_projection(found[:, : queries.shape[1]])


def load_qformer(
    model: type, processor: type, form: Callable[[Question], str], folder: Path, device: str, dtype: str
) -> VqaJudge:
    """The judge in a folder, by transformers' classes; `form` words a question."""
    loaded = load_model(model, folder, device, dtype)
    vqa = QFormerVqa(loaded, load_part(processor, folder), folder)
    return VqaJudge(vqa, form, load_matcher(folder))
