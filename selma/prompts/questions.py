"""Questions about a prompt's images, in the form of DSG (arXiv 2310.18235): the request to the LLM, and its reply read.

Atomic yes/no questions whose expected answer is yes, each with the questions that it depends on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from selma.ground.items import YES_NO, Question
from selma.prompts.cleaning import readable
from selma.prompts.final import final_part
from selma.prompts.provider import Form
from selma.prompts.replies import FILTERED, TOO_LONG

MOST = 30  # questions about one prompt; DSG-1K has 8 on average
_STARTS = 1000  # places of a reply where JSON is looked for

_TEXT, _TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_ROW = {"id": _TEXT, "question": _TEXT, "category": _TEXT, "parents": _TEXTS}
QUESTIONS = Form(
    "questions",
    {
        "type": "object",
        "properties": {
            "questions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": _ROW,
                    "required": list(_ROW),
                    "additionalProperties": False,
                },
            }
        },
        "required": ["questions"],
        "additionalProperties": False,
    },
)

_EXAMPLES = (  # (prompt, its questions: text, category, parents)
    (
        "a small brown dog beside two red balls on a lawn",
        (
            ("Is there a dog?", "entity", ()),
            ("Is the dog small?", "attribute", ("1",)),
            ("Is the dog brown?", "attribute", ("1",)),
            ("Are there balls?", "entity", ()),
            ("Are there exactly two balls?", "count", ("4",)),
            ("Are the balls red?", "attribute", ("4",)),
            ("Is there a lawn?", "entity", ()),
            ("Is the dog beside the balls?", "relation", ("1", "4")),
            ("Are the balls on the lawn?", "relation", ("4", "7")),
        ),
    ),
    (
        "an oil painting of an empty street at night",
        (
            ("Is this an oil painting?", "global", ()),
            ("Is there a street?", "entity", ()),
            ("Is the street empty?", "attribute", ("2",)),
            ("Is it night?", "global", ()),
        ),
    ),
)


# The request -----------------------------------------------------------------------------------


def questions_text(prompt: str) -> str:
    """The request for one prompt's questions, with two in-context examples; `read_questions` reads the reply."""
    shown = "\n\n".join(f"Prompt: {text}\n{_as_json(asked)}" for text, asked in _EXAMPLES)
    return (
        "You write questions by which someone who sees an image, and not its prompt, can tell whether it shows what "
        "the prompt says.\n\n"
        "Rules:\n"
        "- Split the prompt into its atomic facts, and ask one yes/no question about each. The answer is yes if the "
        "image shows what the prompt says.\n"
        "- One question is about one entity, one attribute, one relation, one count, or one global property of the "
        "image; `category` is that word.\n"
        "- `parents` holds the ids of the questions that must be answered yes before this one makes sense: a thing is "
        "there before it has a colour.\n"
        f"- Ask about nothing that the prompt does not say, and ask at most {MOST} questions.\n\n"
        f"{shown}\n\n"
        f"Prompt: {' '.join(prompt.split())}\n\n"
        'Reply with nothing but the JSON object {"questions": [...]} of this last prompt, in the form of the examples.'
    )


def _as_json(asked: tuple[tuple[str, str, tuple[str, ...]], ...]) -> str:
    rows = [
        {"id": str(number), "question": text, "category": category, "parents": list(parents)}
        for number, (text, category, parents) in enumerate(asked, start=1)
    ]
    return json.dumps({"questions": rows})


# The reply -------------------------------------------------------------------------------------


def read_questions(text: str, finish_reason: str = "stop") -> tuple[Question, ...]:
    """The questions in an LLM's reply: JSON that may be fenced, or stand after thoughts or behind a draft of it.

    Numbers may be ids, and 0 is no parent where no question has that id, as in DSG's own files. Raises ValueError,
    which continues "the reply ...", unless there are 1 to MOST questions, each with a text and an id of its own, and
    all parents are among them.
    """
    lists = [rows for value in _values(final_part(text)) if (rows := _rows(value)) is not None]
    if not lists:
        raise ValueError(_lacking(text, finish_reason))
    rows = lists[-1]
    if not 1 <= len(rows) <= MOST:
        raise ValueError(f"holds {len(rows)} questions; 1 to {MOST} are allowed")
    ids = [_id(row.get("id") if isinstance(row, dict) else None) for row in rows]
    questions = tuple(_question(row, id, "0" not in ids) for row, id in zip(rows, ids, strict=True))
    for question in questions:
        if ids.count(question.id) > 1:
            raise ValueError(f"has two questions of the id {question.id[:40]!r}")
        for parent in question.parents:
            if parent not in ids:
                raise ValueError(f"names the unknown question {parent[:40]!r} as a parent")
    return questions


def _lacking(text: str, finish_reason: str) -> str:
    if TOO_LONG.fullmatch(finish_reason):
        return "is cut off: raise llm.max_tokens"
    if FILTERED.fullmatch(finish_reason):
        return "was stopped by a content filter"
    return "holds no list of questions" if text.strip() else "is empty"


def _values(text: str) -> Iterator[Any]:
    """The JSON objects and lists that stand anywhere in a text, in order, outermost first."""
    decoder, end = json.JSONDecoder(strict=False), 0
    for found in islice(re.finditer(r"[{\[]", text), _STARTS):
        if found.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, found.start())
        except ValueError:
            continue
        except RecursionError:  # brackets without end, at each of which it would be tried again
            return
        yield value


def _rows(value: Any) -> list[Any] | None:
    """The list of questions that a value is, or holds under that name; None if it is none."""
    if isinstance(value, dict):
        rows = value.get("questions")
        return rows if isinstance(rows, list) else None
    return value if any(isinstance(row, dict) and "question" in row for row in value) else None


def _question(row: dict[str, Any], id: str, zero_is_none: bool) -> Question:
    text, category, parents = (row.get(name) for name in ("question", "category", "parents"))
    text = readable(text) if isinstance(text, str) else ""
    if not any(char.isalnum() for char in text):
        raise ValueError("has a question without text")
    category = readable(category) if isinstance(category, str) else ""
    listed = parents if isinstance(parents, list) else [] if parents is None else [parents]
    above = dict.fromkeys(map(_id, listed))
    if zero_is_none:
        above.pop("0", None)
    return Question(id, text, YES_NO, "yes", tuple(above), category or "other")


def _id(value: Any) -> str:
    id = str(value) if type(value) is int else readable(value) if isinstance(value, str) else ""
    if not id:
        raise ValueError("has a question or a parent without an id")
    return id
