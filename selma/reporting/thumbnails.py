"""Small pictures inside a page: lossy WebP as data URIs, a few hundred bytes each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from selma.ground.pairs import read_image

SIDE = 128  # pixels, at most; the embedded world's 64 stay as they are
QUALITY = 80


def strip(files: Sequence[Path], side: int = SIDE) -> str:
    """The images side by side as one data URI; all have the first one's shape, at most `side` pixels."""
    images = [read_image(file) for file in files]
    scale = min(1.0, side / max(images[0].size))
    width, height = (max(1, round(length * scale)) for length in images[0].size)
    sheet = Image.new("RGB", (width * len(images), height))
    for n, image in enumerate(images):
        shown = (
            image
            if image.size == (width, height)
            else image.resize((width, height), Image.Resampling.LANCZOS)
        )
        sheet.paste(shown, (n * width, 0))
    return data_uri(sheet)


def data_uri(image: Image.Image) -> str:
    """An image as a data URI."""
    buffer = BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
