"""A multimodal backbone as a judge: it looks at an image and says yes or no to questions about it.

An image is read once; the questions about it stand side by side after it, and none sees another, so each is answered
as if it were asked alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from selma.backbones.packing import apart, positions
from selma.ground.errors import UserError
from selma.judging.choices import is_yes_no
from selma.judging.groups import BATCH, Answering, Came, groups
from selma.judging.judge import Answer
from selma.judging.vqa import yes_no_tokens
from selma.runtime.devices import enough_memory

if TYPE_CHECKING:
    from PIL import Image

    from selma.backbones.multimodal import Multimodal
    from selma.ground.items import Question


class MultimodalJudge(Answering):
    """What the model answers, by the probabilities of yes and of no as the next word, both from one pass."""

    def __init__(self, opened: Multimodal, folder: Path) -> None:
        self._opened = opened
        self._yes, self._no = yes_no_tokens(opened.tokenizer, folder)

    def check(self, questions: Iterable[Question]) -> None:
        """Raise UserError for a question that asks for more than yes or no."""
        for question in questions:
            if not is_yes_no(question.choices):
                raise UserError(
                    f"a judge of kind multimodal says yes or no; {question.text[:80]!r} has the choices "
                    f"{', '.join(question.choices)[:80]}; kind chat_vlm answers such questions"
                )

    def answers(
        self, asked: Iterable[tuple[Image.Image, Sequence[Question]]], batch: int = BATCH
    ) -> Iterator[Came[Answer]]:
        """One Answer per question, with its margin, as they come: by the numbers of the image and of its question."""
        first = 0
        for group in groups(asked, batch):
            self.check(question for _, questions in group for question in questions)
            shown = [(i, image, questions) for i, (image, questions) in enumerate(group) if questions]
            with enough_memory(f"lower judge.batch ({batch} questions at once)"):
                said = self._ask([image for _, image, _ in shown], [questions for _, _, questions in shown])
            yield {
                (first + i, j): self._settle(question, *said[n][j])
                for n, (i, _, questions) in enumerate(shown)
                for j, question in enumerate(questions)
            }
            first += len(group)

    def _settle(self, question: Question, yes: float, no: float) -> Answer:
        total = yes + no
        p_yes = yes / total if total > 0 else 0.5
        word = "yes" if p_yes >= 0.5 else "no"
        return Answer(next(c for c in question.choices if c.strip().casefold() == word), p_yes, yes - no)

    @torch.inference_mode()
    def _ask(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Question]]
    ) -> list[list[tuple[float, float]]]:
        """The probabilities of yes and no to each question about each image."""
        if not images:
            return []
        texts = list(dict.fromkeys(question.text for some in questions for question in some))
        ids = dict(zip(texts, self._opened.questions(texts), strict=True))
        prefix, rest = _split(ids, self._opened.model.config.image_token_id)
        rows = [[rest[question.text] for question in some] for some in questions]
        probabilities = next_words(self._opened, self._opened.features(images), prefix, rows)
        yes, no = probabilities[..., self._yes].sum(-1), probabilities[..., self._no].sum(-1)
        return [
            [(yes[i, j].item(), no[i, j].item()) for j in range(len(some))]
            for i, some in enumerate(questions)
        ]


def _split(ids: dict[str, list[int]], image: int) -> tuple[list[int], dict[str, list[int]]]:
    """What all questions begin with, up to the token after the image's last, and what is left of each."""
    one = next(iter(ids.values()))
    end = len(one) - one[::-1].index(image) + 1
    return one[:end], {text: row[end:] for text, row in ids.items()}


def next_words(
    opened: Multimodal, features: torch.Tensor, prefix: Sequence[int], rows: Sequence[Sequence[Sequence[int]]]
) -> torch.Tensor:
    """Probabilities [n, questions, vocabulary] of the word after each question, fp32; rows with fewer are padded.

    features [n, tokens, width] are the images', `prefix` the ids that all questions begin with, the image's
    placeholders among them, rows[i][j] what follows of question j about image i.
    """
    model, device = opened.model, opened.device
    questions, longest = max(map(len, rows)), max(len(ids) for some in rows for ids in some)
    padded = torch.full((len(rows), questions, longest), -1)
    for i, some in enumerate(rows):
        for j, ids in enumerate(some):
            padded[i, j, longest - len(ids) :] = torch.tensor(ids)
    valid = (padded >= 0).flatten(1).to(device)
    before = torch.tensor(prefix, device=device)
    embed = model.get_input_embeddings()
    head = embed(before).expand(len(rows), -1, -1).clone()
    head[:, before == model.config.image_token_id] = features.to(head.dtype)
    lengths = [longest] * questions
    states = model.model.language_model(
        inputs_embeds=torch.cat([head, embed(padded.clamp(min=0).flatten(1).to(device))], 1),
        attention_mask=apart(len(prefix), lengths, valid, head.dtype),
        position_ids=positions(len(prefix), lengths, valid),
        use_cache=False,
    ).last_hidden_state
    last = states[:, len(prefix) :].unflatten(1, (questions, longest))[:, :, -1]
    return model.lm_head(last).float().softmax(-1).cpu()
