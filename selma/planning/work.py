"""What one stage makes, in numbers, and what its time and its disk depend on."""

from __future__ import annotations

from dataclasses import dataclass

DRAWING, TRAINING = "drawing", "training"


@dataclass(frozen=True)
class Part:
    """A part of a stage that other kinds of stages have, too: `number` images drawn, or steps trained.

    `by` names all that the seconds of one depend on, but for `of`, which they grow with: an image's passes of the UNet,
    a step's examples.
    """

    activity: str
    number: int
    by: str
    of: float


@dataclass(frozen=True)
class Work:
    """What a stage makes.

    Its time grows with `number`, of `unit` (empty: with nothing), each worth `of`; `by` names all else that it depends
    on.

    `parts` are timed alone where the whole stage was not, and `rest` is what that leaves out (empty: nothing).
    `stored` is what its outs hold: a name and how much of it; `most` bytes at most where none was measured.
    `unknown` names what could not be counted.
    """

    images: int = 0
    steps: int = 0
    requests: int = 0
    questions: int = 0
    unit: str = ""
    number: int = 0
    of: float = 1.0
    by: str = ""
    parts: tuple[Part, ...] = ()
    rest: str = ""
    stored: tuple[str, float] | None = None
    most: int | None = None
    unknown: tuple[str, ...] = ()
