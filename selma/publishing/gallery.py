"""Sample images for a model card's gallery: what the run itself drew for test prompts, chosen by chance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from selma.ground.files import atomic
from selma.ground.pairs import METADATA, Pair, read_image, read_pairs
from selma.runtime.places import SAMPLES

FOLDER = "samples"  # in the exported folder
COUNT = 6
LONGEST = 512  # pixels of the longer side; what is larger is reduced, so that a card loads fast
QUALITY = 90  # of a reduced image's WebP


@dataclass(frozen=True)
class Sample:
    """An image of the gallery: its path in the exported folder, and the prompt that it was drawn for."""

    file: str
    text: str
    reduced: bool


def place(model: str | None, benchmark: str | None) -> Path | None:
    """Where the run keeps what a row of `models` drew for a benchmark's test prompts; None where it drew nothing."""
    if model is None or benchmark is None:
        return None
    folder = Path(SAMPLES) / model / benchmark
    return folder if (folder / METADATA).is_file() else None


def choose(pairs: list[Pair], count: int = COUNT) -> list[Pair]:
    """The first image of `count` prompts, the same ones for every model: by the hash of their ids, never by score."""
    first = [pair for pair in pairs if pair.k == 0]
    return sorted(first, key=lambda pair: hashlib.sha256(pair.id.encode()).hexdigest())[:count]


def write(source: Path, out: Path) -> list[Sample]:
    """Put chosen images of the run's folder `source` under `out`/samples: as they are, or reduced to 512 pixels.

    Raises UserError for an image that is missing or cannot be read.
    """
    samples = []
    for pair in choose(read_pairs(source)):
        image = read_image(pair.file)
        name, reduced = f"{FOLDER}/{pair.file.name}", max(image.size) > LONGEST
        with atomic(out / name) as temporary:
            if reduced:
                image.thumbnail((LONGEST, LONGEST))
                image.save(
                    temporary, format="WEBP" if pair.file.suffix == ".webp" else "PNG", quality=QUALITY
                )
            else:
                temporary.write_bytes(pair.file.read_bytes())
        samples.append(Sample(name, pair.text, reduced))
    return samples
