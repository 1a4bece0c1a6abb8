"""What a picture is worth to a policy: weighted scores of judges, or none but the model's own.

A judge that answers questions is asked the prompt's, and each counts by itself (credit per concept): the probability of
the expected answer, at most that of each question it depends on (DSG, arXiv 2310.18235). One that answers none, or a
prompt without questions, is scored by the judge's own score of the picture for the prompt.

A multimodal model that judges itself is asked the same and scored as SILMM does (arXiv 2412.05818): the mean over
questions of p(yes) - p(no), each by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.judging.choices import normal
from selma.judging.judge import load_judge, load_scorer, read_card
from selma.judging.many import ask_all, rate_all
from selma.runtime import variants
from selma.runtime.learning import SOLACE
from selma.scoring.scores import gated

if TYPE_CHECKING:
    from PIL.Image import Image

Asked = Iterable[tuple[Item, int, "Image"]]


def open_judges(
    names: Iterable[str],
    items: Sequence[Item],
    device: str,
    dtype: str,
    batch: int,
    drawer: Path | None = None,
) -> list[JudgeReward]:
    """The judges of these names, each able to score the items; `solace` is none. One that is the model itself has the
    LoRA in `drawer`."""
    return [JudgeReward.load(name, items, device, dtype, batch, drawer) for name in names if name != SOLACE]


def scorable(name: str, items: Sequence[Item]) -> list[Item]:
    """The items whose pictures a judge can score: all; of one that answers alone, those with questions.

    An LLM may leave a few prompts without; where none has any, all are returned, for `load` to refuse.
    """
    kind = variants.constants("judges", read_card(name)["kind"])
    asked = [item for item in items if item.questions]
    return asked if asked and not kind["SCORES"] else list(items)


class JudgeReward:
    """The scores that one judge gives."""

    def __init__(self, name: str, judge: Any, answers: bool, batch: int) -> None:
        self.name, self._judge, self._answers, self._batch = name, judge, answers, batch
        self.tokens: dict[tuple[str, int], tuple[int, int]] = {}

    @classmethod
    def load(
        cls, name: str, items: Sequence[Item], device: str, dtype: str, batch: int, drawer: Path | None = None
    ) -> JudgeReward:
        """The judge in models/judges/<name>, which must be able to score the items.

        Raises UserError, before anything is drawn, for one that answers questions alone where an item has none, and for
        questions that it cannot read.
        """
        kind = variants.constants("judges", read_card(name)["kind"])
        answers = kind["ANSWERS"] and all(item.questions for item in items)
        if not answers and not kind["SCORES"]:
            without = next(item for item in items if not item.questions)
            raise UserError(
                f"judge {name} answers questions alone, and {without.id} ({without.prompt[:60]!r}) has none; "
                "set questions.source, or take a judge that scores pictures for prompts"
            )
        judge = load_judge(name, device, dtype, drawer) if answers else load_scorer(name, device, dtype)
        if answers and hasattr(judge, "check"):
            judge.check([question for item in items for question in item.questions])
        return cls(name, judge, answers, batch)

    def questions(self, item: Item) -> int:
        """How many questions the judge is asked about a picture of the item; a score for the prompt counts as one."""
        return len(item.questions) if self._answers else 1

    def scores(self, asked: Asked) -> dict[tuple[str, int], float]:
        """The score of each picture, by item and number.

        `tokens` then has what the answers about a picture took, read and written, of a judge that says so.
        """
        self.tokens = {}
        if not self._answers:
            return self._rated(asked)
        items: dict[str, Item] = {}

        def taken() -> Iterator[tuple[Item, int, Image]]:
            for item, k, image in asked:
                items[item.id] = item
                yield item, k, image

        given: dict[tuple[str, int], dict[str, float]] = {}
        margins: dict[tuple[str, int], list[float]] = {}
        for rows in ask_all(self._judge, taken(), self._batch):
            for row in rows:
                given.setdefault((row["item"], row["k"]), {})[row["question"]] = _credit(row)
                if "tokens" in row:
                    before = self.tokens.get((row["item"], row["k"]), (0, 0))
                    self.tokens[row["item"], row["k"]] = (
                        before[0] + row["tokens"][0],
                        before[1] + row["tokens"][1],
                    )
                if "margin" in row:
                    sign = 1 if normal(row["expected"]) == "yes" else -1
                    margins.setdefault((row["item"], row["k"]), []).append(sign * row["margin"])
        if margins:
            return {key: fmean(found) for key, found in margins.items()}
        return {
            (item, k): fmean(gated(question, raw) for question in items[item].questions)
            for (item, k), raw in given.items()
        }

    def _rated(self, asked: Asked) -> dict[tuple[str, int], float]:
        shown: list[tuple[str, int]] = []

        def taken() -> Iterator[tuple[Image, str]]:
            for item, k, image in asked:
                shown.append((item.id, k))
                yield image, item.prompt

        rated = rate_all(self._judge, taken(), self._batch)
        return {shown[i]: float(score) for came in rated for i, score in came.items()}


def _credit(row: Mapping[str, Any]) -> float:
    """How far one answer is the expected one, 0 to 1: the probability of it, where the judge gives one."""
    if row["p_yes"] is None:
        return float(row["answer"] == row["expected"])
    return row["p_yes"] if normal(row["expected"]) == "yes" else 1 - row["p_yes"]
