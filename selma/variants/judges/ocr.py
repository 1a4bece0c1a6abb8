"""Whether an image shows the text that its prompt asks for in quotes, read by OCR (PP-OCRv4 in RapidOCR).

    a shop sign that says "OPEN"      asks for OPEN; so does 'OPEN', and any typographic quotes

The score of one quoted text is the normalised edit similarity, 1 - distance / longer length, of that text and what was
read: a line, or several lines on end, whichever is nearest (AnyText, arXiv 2311.03054, takes lines alone). Case, spaces
and punctuation do not count. A prompt's score is the mean over its quoted texts. A prompt that quotes nothing asks for
nothing that could be missing: 1, whatever the image shows (a ring reads as O), so take prompts that quote.

The package is optional, and brings its weights: pip install -r requirements-ocr.txt
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from PIL import Image
from rapidfuzz.distance import Levenshtein

from selma.ground.errors import UserError, first_line

ANSWERS, SCORES = False, True
NEEDS = ()
TAKES = ()

LINES = 40  # of an image; runs of more are not compared
_DOUBLE = re.compile('["“”„«»]([^"“”„«»]+)["“”«»]')
# An apostrophe within a word is no quote: a dog's bowl that says 'REX'.
_SINGLE = re.compile(r"(?<!\w)['‘‚]([^'‘’]+(?:(?<=\w)['’](?=\w)[^'‘’]+)*)['’](?!\w)")


class Reader(Protocol):
    """What reads the lines of text in an image, from the top down."""

    def __call__(self, image: Image.Image) -> list[str]: ...


class OcrScorer:
    """The score, 0..1, of what a reader reads."""

    def __init__(self, read: Reader) -> None:
        self._read = read

    def score(self, image: Image.Image, prompt: str) -> float:
        """How well the image shows what the prompt quotes."""
        wanted = asked(prompt)
        return similarity(wanted, self._read(image)) if wanted else 1.0


def asked(prompt: str) -> list[str]:
    """The texts that a prompt quotes, in double quotes of any kind or, where there are none, in single ones."""
    return [text.strip() for text in _DOUBLE.findall(prompt) or _SINGLE.findall(prompt) if text.strip()]


def similarity(wanted: Sequence[str], lines: Sequence[str]) -> float:
    """The mean over the texts `wanted`, at least one, of each one's similarity, 0..1, to the nearest run of `lines`."""
    read = [_letters(line) for line in lines][:LINES]
    runs = {"".join(read[i:j]) for i in range(len(read)) for j in range(i + 1, len(read) + 1)} - {""}
    return fmean(
        max((Levenshtein.normalized_similarity(_letters(text), run) for run in runs), default=0.0)
        for text in wanted
    )


def _letters(text: str) -> str:
    """Letters and digits in lower case; of a text without any, all but the spaces."""
    folded = "".join(text.casefold().split())
    return "".join(c for c in folded if c.isalnum()) or folded


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> OcrScorer:
    """The judge, on the CPU; raises UserError if the package is not installed."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise UserError(
            "a judge of kind ocr needs the package rapidocr-onnxruntime, which is not there "
            f"({first_line(error)}): pip install -r requirements-ocr.txt"
        ) from None
    import numpy as np

    engine = RapidOCR()

    def read(image: Image.Image) -> list[str]:
        found, _ = engine(np.asarray(image.convert("RGB"))[:, :, ::-1])  # as OpenCV has it: blue first
        return [text for _, text, _ in found or []]

    return OcrScorer(read)
