"""Prompts that are longer than a text encoder reads, said once in one line in place of the libraries' own warnings.

diffusers warns of each batch and quotes all that is not read, padding included; transformers warns of what is cut right
after. Neither says which prompts. They are asked for here, where the warnings pass, and not where prompts are encoded:
that code is a dep of most stages, and a warning is no reason to draw and train anew.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import read_jsonl

_PIPELINES = "diffusers.pipelines"
_WARNINGS = {
    "transformers.tokenization_utils_base": "Token indices sequence length is longer",
    f"{_PIPELINES}.stable_diffusion.pipeline_stable_diffusion": "The following part of your input was truncated",
    f"{_PIPELINES}.stable_diffusion_xl.pipeline_stable_diffusion_xl": "The following part of your input was truncated",
}


@contextmanager
def noted(first_of: Callable[[Collection[str]], str | None] = lambda texts: None) -> Iterator[None]:
    """Say on stderr, when the body ends, how many prompts were cut; `first_of` names the first of such texts."""
    cut: dict[str, int] = {}  # each text, and how many tokens of it are read

    def news(record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(_WARNINGS[record.name]) or (found := _encoded()) is None:
            return True
        cut.update(found)
        return False

    loggers = [logging.getLogger(name) for name in _WARNINGS]
    before = [(logger.level, logger.disabled) for logger in loggers]
    # Whatever else has made the libraries quiet: MLflow's migrations disable all loggers.
    for logger in loggers:
        logger.addFilter(news)
        logger.setLevel(logging.WARNING)
        logger.disabled = False
    try:
        yield
    finally:
        for logger, (level, disabled) in zip(loggers, before, strict=True):
            logger.removeFilter(news)
            logger.setLevel(level)
            logger.disabled = disabled
        if cut:
            print(f"warning: {_line(cut, first_of(cut))}", file=sys.stderr, flush=True)


def row_of(places: Collection[Path], texts: Collection[str]) -> str | None:
    """The id of the first row of the JSON Lines files at `places`, or in folders there, with one of these texts."""
    for place in places:
        for file in sorted(place.rglob("*.jsonl")) if place.is_dir() else [place]:
            with suppress(UserError, OSError):
                for row in read_jsonl(file) if file.suffix == ".jsonl" else ():
                    text = row.get("text", row.get("prompt"))
                    if isinstance(text, str) and text in texts and "id" in row:
                        return str(row["id"])
    return None


def _line(cut: dict[str, int], first: str | None) -> str:
    text = next(iter(cut))
    count = "1 prompt is" if len(cut) == 1 else f"{len(cut)} prompts are"
    read = min(cut.values())
    named = first or repr(text if len(text) <= 40 else f"{text[:40]}...")
    return (
        f"{count} longer than the text encoder's {read} tokens; what is beyond is not read (first: {named})"
    )


def _encoded() -> dict[str, int] | None:
    """The texts that a pipeline is encoding just now and that are too long; None if none is encoding.

    A logging filter is called beneath the function that warns: the texts are an argument of that function.
    """
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != "encode_prompt":
        frame = frame.f_back
    if frame is None:
        return None
    pipe, texts = frame.f_locals["self"], frame.f_locals["prompt"]
    texts = [texts] if isinstance(texts, str) else texts
    tokenizers = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2")]
    found = {}
    for tokenizer in filter(None, tokenizers):
        ids = tokenizer(texts, verbose=False)["input_ids"]
        most = tokenizer.model_max_length
        found |= {text: most for text, own in zip(texts, ids, strict=True) if len(own) > most}
    return found
