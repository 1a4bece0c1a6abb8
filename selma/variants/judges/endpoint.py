"""Any OpenAI-compatible server with a model that sees images, as a judge.

The key comes from the environment only. Where the server gives log-probabilities, P(yes) is read from the first
word's; where it does not, P(yes) is 1 or 0 by its answer.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from selma.judging import choices
from selma.judging.groups import Came, Said
from selma.judging.vqa import VqaJudge, instruct, load_matcher
from selma.net.asking import Server
from selma.net.flight import Flight

ANSWERS, SCORES = True, True
NEEDS = ("endpoint",)
TAKES = ("matcher",)

TIMEOUT = 120.0  # seconds to wait for the next byte of an answer
RETRIES = 6  # further attempts after 429, 5xx, a broken connection or a broken answer
TOKENS = 16  # of an answer
MOST = 10**9  # tokens of one answer that are believed
OPTIONAL = ("logprobs", "max_tokens", "temperature")  # fields that some servers refuse


class EndpointVlm:
    """A server, asked one question about one image per request, many of them in flight at once."""

    def __init__(self, model: str, base_url: str | None, key_env: str | None) -> None:
        self._model = model
        self._server = Server(
            base_url,
            key_env,
            who="judge",
            section="endpoint",
            model=f"model {model}",
            timeout=TIMEOUT,
            retries=RETRIES,
            optional=OPTIONAL,
        )

    def replies(self, asked: Iterable[tuple[Image.Image, Sequence[str]]], batch: int) -> Iterator[Came[Said]]:
        """One by one as they come, `batch` requests in flight, images and questions in any order.

        Where the server gives up, what is in flight still comes before the error.
        """
        numbers: list[tuple[int, int]] = []

        def tasks() -> Iterator[tuple[str, str]]:
            for i, (image, texts) in enumerate(asked):
                url = data_url(image)
                for j, text in enumerate(texts):
                    numbers.append((i, j))
                    yield url, text

        for number, said in Flight(lambda task: self._ask(*task), tasks(), batch):
            yield {numbers[number]: said}

    def _ask(self, image: str, text: str) -> Said:
        message = {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": text}],
        }
        body = {"model": self._model, "messages": [message], "temperature": 0, "max_tokens": TOKENS}
        body |= {"logprobs": True, "top_logprobs": 20}
        (words, first, cut, tokens), _, _ = self._server.ask("chat/completions", lambda _: body, _read)
        if cut and not words.strip():
            raise self._server.end(
                f"its {TOKENS} tokens ended before it said a word; a model that answers without reasoning is needed"
            )
        if not first:
            said = choices.normal(words).partition(" ")[0].strip(".,;:!")
            return Said(words, float(said == "yes"), float(said == "no"), tokens)
        return Said(words, _probability(first, "yes"), _probability(first, "no"), tokens)


def _read(text: str) -> tuple[str, dict[str, float], bool, tuple[int, int] | None] | None:
    """An answer's words, the probabilities (0..1) of its first token where it has some, whether it was cut off, and
    what it took in tokens.

    None for JSON without words; log-probabilities and usage of another shape are as good as none.
    """
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        words = choice["message"].get("content") or ""
        if isinstance(words, list):  # parts
            words = "".join(part.get("text") or "" for part in words)
        cut = choice.get("finish_reason") in ("length", "max_tokens")
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return None
    return (words, _first_token(choice), cut, _tokens(body)) if isinstance(words, str) else None


def _tokens(body: Mapping[str, Any]) -> tuple[int, int] | None:
    """The tokens that were read and written, as the server counts them."""
    usage = body.get("usage")
    found = (
        [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if isinstance(usage, dict)
        else []
    )
    return (found[0], found[1]) if found and all(type(n) is int and 0 <= n < MOST for n in found) else None


def _first_token(choice: Mapping[str, Any]) -> dict[str, float]:
    """The likeliest tokens of an answer's first position, and their probabilities."""
    try:
        tokens = choice["logprobs"]["content"][0]["top_logprobs"]
        found = {str(token["token"]): token["logprob"] for token in tokens}
    except (LookupError, TypeError):
        return {}
    return {token: math.exp(min(p, 0.0)) for token, p in found.items() if isinstance(p, (int, float))}


def data_url(image: Image.Image) -> str:
    """The image as a data URL, as lossless PNG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """The judge; raises UserError for an invalid address, and for a key that is not in the environment."""
    return VqaJudge(EndpointVlm(**card["endpoint"]), instruct, load_matcher(folder))


def _probability(tokens: Mapping[str, float], word: str) -> float:
    """Total over the spellings of `word` among a position's likeliest tokens, at most 1."""
    total = sum(probability for token, probability in tokens.items() if choices.normal(token) == word)
    return min(total, 1.0)
