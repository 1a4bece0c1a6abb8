"""Groups of images and texts for a model on this machine: cut by their order alone, so a resumed run cuts the same.

A group is what is judged, and written down, together. Where a run was killed only whole groups are missing, and its
answers are those of a run that was not, to the last bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from PIL import Image

if TYPE_CHECKING:
    from selma.ground.items import Question
    from selma.judging.judge import Answer

BATCH = 8  # texts about images at once: in one pass of a local model, or in flight to a server
SORTED = 4  # batches of a group, among which texts are sorted by length

T = TypeVar("T")
Came = Mapping[tuple[int, int], T]  # what came together, by the numbers of the image and of its text


@dataclass(frozen=True)
class Said:
    """A model's own words, and the probabilities (0..1) that their first word is "yes" and that it is "no".

    `tokens` are those that a server says it has read and written for it; None where it does not say.
    """

    text: str
    yes: float
    no: float
    tokens: tuple[int, int] | None = None


class Model(Protocol):
    """Something that answers texts about images in words."""

    def replies(
        self, asked: Iterable[tuple[Image.Image, Sequence[str]]], batch: int
    ) -> Iterator[Came[Said]]: ...


class Answering(ABC):
    """A judge that answers questions about many images at once; about one image it does so, too."""

    @abstractmethod
    def answers(
        self, asked: Iterable[tuple[Image.Image, Sequence[Question]]], batch: int = BATCH
    ) -> Iterator[Came[Answer]]:
        """What is answered, as it comes: by the numbers of the image and of its question."""

    def answer(self, image: Image.Image, questions: Sequence[Question]) -> list[Answer]:
        """One Answer per question; raises what `answers` raises."""
        found = {key: said for came in self.answers([(image, questions)]) for key, said in came.items()}
        return [found[0, j] for j in range(len(questions))]


class LocalModel(ABC):
    """A model on this machine, which looks at the images of a group and then answers the texts about them."""

    @abstractmethod
    def reply(
        self, images: Sequence[Image.Image], texts: Sequence[tuple[int, str]], batch: int
    ) -> list[Said]:
        """What is said to each of `texts`, (the number of its image, text); at most `batch` of them in one pass."""

    def replies(self, asked: Iterable[tuple[Image.Image, Sequence[str]]], batch: int) -> Iterator[Came[Said]]:
        """The same of any number of images, a group at a time; raises UserError where memory runs out."""
        from selma.runtime.devices import enough_memory  # torch: the oracle and servers do without

        first = 0
        for group in groups(asked, batch):
            numbers = [(i, j) for i, (_, texts) in enumerate(group) for j in range(len(texts))]
            with enough_memory(f"lower judge.batch ({batch} questions at once)"):
                said = self.reply(
                    [image for image, _ in group], [(i, group[i][1][j]) for i, j in numbers], batch
                )
            yield {(first + i, j): words for (i, j), words in zip(numbers, said, strict=True)}
            first += len(group)


def groups(
    asked: Iterable[tuple[Image.Image, Sequence[T]]], batch: int
) -> Iterator[list[tuple[Image.Image, Sequence[T]]]]:
    """Whole images in order: at most `batch` of them, closed by the one that makes it SORTED x `batch` texts."""
    group: list[tuple[Image.Image, Sequence[T]]] = []
    for pair in asked:
        group.append(pair)
        if len(group) == batch or sum(len(texts) for _, texts in group) >= SORTED * batch:
            yield group
            group = []
    if group:
        yield group


class LocalScorer(ABC):
    """A model on this machine, which scores images for their prompts."""

    @abstractmethod
    def score_group(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """The scores of so many images for as many prompts, in one pass, on the metric's published scale."""

    def score(self, image: Image.Image, prompt: str) -> float:
        """The score of an image for a prompt."""
        return next(self.scores([(image, prompt)]))[0]

    def scores(
        self, asked: Iterable[tuple[Image.Image, str]], batch: int = BATCH
    ) -> Iterator[Mapping[int, float]]:
        """The same of any number of images, `batch` at a time; raises UserError where memory runs out."""
        from selma.runtime.devices import enough_memory

        first = 0
        for group in groups(((image, [prompt]) for image, prompt in asked), batch):
            with enough_memory(f"lower judge.batch ({batch} images at once)"):
                scores = self.score_group([image for image, _ in group], [prompt for _, (prompt,) in group])
            yield dict(enumerate(scores, start=first))
            first += len(group)


def parts(lengths: Sequence[int], batch: int, *, equal: bool = False) -> Iterator[list[int]]:
    """All indices in lists of at most `batch`, sorted by length, so that little is padded.

    With `equal` lengths in a list are the same, so that nothing is.
    """
    part: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if part and (len(part) == batch or (equal and lengths[i] != lengths[part[0]])):
            yield part
            part = []
        part.append(i)
    if part:
        yield part
