"""A prompt's images as pickers see them: with the scores that judges gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import read_rows
from selma.ground.pairs import Pair, read_training
from selma.ground.schema import FileName, Id, Index, record

KEPT, REJECTED = (
    "kept",
    "rejected",
)  # verdicts; REJECTED is the worse image of a pair, any other text is a reason
RATINGS = Path("data/ratings")


@record
class Rating(TypedDict):
    """A row of a judge's ratings: an image and its score, on the judge's own scale."""

    file_name: FileName
    id: Id
    k: Index
    score: float | None  # None: the prompt has no questions, and the judge answers alone


@dataclass(frozen=True)
class Shot:
    """One of a prompt's images; `k` counts them, `scores` are by judge's name, each on the judge's own scale."""

    pair: Pair
    scores: Mapping[str, float]

    @property
    def k(self) -> int:
        """Its number among the prompt's images."""
        return self.pair.k


def ratings(part: Path, judge: str) -> Path:
    """Where a judge's ratings of a folder of images under data/ are."""
    return RATINGS / Path(part).relative_to("data") / f"{judge}.jsonl"


def read_shots(parts: Iterable[Path], judges: Sequence[str]) -> dict[str, list[Shot]]:
    """The images of these folders with the judges' ratings, by prompt id, each prompt's in the order of k; prompts that
    one of the judges cannot score are left out.

    Raises UserError for an image without a rating, and as `read_training` does.
    """
    found: dict[str, list[Shot]] = {}
    for part in parts:
        rated: dict[str, dict[str, float | None]] = {}
        for judge in judges:
            for row in read_rows(ratings(part, judge), Rating, once=["file_name"]):
                rated.setdefault(row["file_name"], {})[judge] = row["score"]
        for pair in read_training(part):
            scores = rated.get(pair.file.name, {})
            for judge in judges:
                if judge not in scores:
                    file = ratings(part, judge)
                    raise UserError(f"{file}: does not rate {pair.file.name}; run the rate stage again")
            if None not in scores.values():
                found.setdefault(pair.id, []).append(Shot(pair, scores))
    return {id: sorted(shots, key=lambda shot: shot.k) for id, shots in found.items()}


def best(shots: Sequence[Shot], judge: str) -> int:
    """The index of the image that a judge scores highest; of equal ones the first."""
    return max(range(len(shots)), key=lambda i: (shots[i].scores[judge], -i))
