"""Which tokens of a text encoder's input a stretch of the prompt became."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selma.images.phrases import Span

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from selma.backbones.loading import Pipeline


def tokenizers(pipe: Pipeline) -> list[CLIPTokenizer]:
    """The backbone's tokenizers, one for each text encoder, in the order in which their states lie side by side."""
    found = (pipe.components.get(name) for name in ("tokenizer", "tokenizer_2"))
    return [tokenizer for tokenizer in found if tokenizer is not None]


def token_span(tokenizer: CLIPTokenizer, text: str, span: Span) -> range:
    """The positions of the tokens of text[span], that of the start token counted; those that are cut off are not.

    `span` begins and ends where words do: there CLIP's tokenizer splits before it merges, so that what stands before
    has as many tokens by itself.
    """
    first, last = (_count(tokenizer, text[:end]) for end in span)
    cut = tokenizer.model_max_length - 2  # without the start and the end token
    return range(1 + min(first, cut), 1 + min(last, cut))


def _count(tokenizer: CLIPTokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
