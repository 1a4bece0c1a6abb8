"""What is known of one prompt that somebody typed: its questions, and the words that a backbone never saw."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.ground.items import Item, load_items
from selma.ground.pairs import Prompt, prompt_id
from selma.prompts.provider import load_provider
from selma.prompts.questioning import write_questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from selma.runtime.params import Params

# Where a prompt may stand with its questions: exams first, then the training prompts.
KEPT = ("data/benchmarks/*/*.jsonl", "data/questions/*/prompts.jsonl")


def item_of(prompt: str, params: Params, *, ask: bool) -> Item:
    """The prompt as an item, with the questions that this repository has about it.

    They come from a benchmark or from stage `questions`, where the very prompt is; from the LLM otherwise, if that is
    the embedded one, which is free, or if `ask`. Without either the item has no questions.
    Raises UserError where an LLM that is asked has no usable answer.
    """
    plain = Item(prompt, prompt, "", "", ())
    for pattern in KEPT:
        for file in sorted(Path().glob(pattern)):
            for item in load_items(file):
                if item.prompt == prompt and item.questions:
                    return Item(prompt, prompt, "", "", item.questions, item.absent)
    provider = load_provider(params.llm)
    if not ask and provider.identity is not None:
        return plain
    asked = Prompt(id=prompt_id("drawn", prompt), text=prompt)
    try:
        found = write_questions([asked], provider, skill="drawn", seed=params.seed, done=lambda: None)
    except UserError:
        if provider.identity is not None:
            raise
        return plain  # the embedded LLM reads its own world's prompts only
    return Item(prompt, prompt, "", "", found[asked["id"]])


def unseen(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words of a prompt that the embedded tokenizer cuts into pieces, each once, in order.

    It was trained on the very captions that its backbone was (selma/shapes/pretraining/clip.py), and has a token of
    its own for every word of theirs, so a word that takes two was never seen. Single letters always have one. Of a
    tokenizer of the open world this says nothing.
    """
    words = dict.fromkeys(re.findall(r"[^\W_]+", prompt.lower()))
    return [word for word in words if len(tokenizer.tokenize(word)) > 1]
