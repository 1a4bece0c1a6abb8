"""Answers of a generative model of transformers: greedy words, and the first word's probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from selma.ground.errors import UserError
from selma.judging.groups import Said
from selma.judging.vqa import yes_no_tokens

LONGEST = 16  # tokens of an answer
SETTINGS = {
    "do_sample": False,
    "num_beams": 1,
    "max_new_tokens": LONGEST,
    "return_dict_in_generate": True,
    "output_logits": True,  # before any processing of them
}


class Reader:
    """Turns what `generate(**SETTINGS)` returns into words and probabilities."""

    def __init__(self, tokenizer: Any, folder: Path) -> None:
        self._tokenizer = tokenizer
        self._yes, self._no = yes_no_tokens(tokenizer, folder)

    def read(self, output: Any) -> list[Said]:
        """One Said per row; the prompt's tokens, which some models repeat, are left out.

        Raises UserError for probabilities that are not finite: the words would be arbitrary.
        """
        steps = len(output.logits)
        texts = self._tokenizer.batch_decode(output.sequences[:, -steps:], skip_special_tokens=True)
        first = output.logits[0].float().softmax(dim=-1)  # [n, vocabulary]
        if not first.isfinite().all():
            raise UserError(
                "the judge's probabilities are not finite; set runtime.dtype to float32 or bfloat16"
            )
        yes, no = first[:, self._yes].sum(dim=1).tolist(), first[:, self._no].sum(dim=1).tolist()
        return [Said(*row) for row in zip((text.strip() for text in texts), yes, no, strict=True)]


def to_model(inputs: Any, model: torch.nn.Module) -> Any:
    """A processor's tensors on the model's device, floating-point ones in its dtype."""
    return inputs.to(model.device, model.dtype)
