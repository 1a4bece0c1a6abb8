"""Any OpenAI-compatible server with a model that sees images, as a judge.

The key comes from the environment only. Where the server gives log-probabilities, P(yes) is read from the first
word's; where it does not, P(yes) is 1 or 0 by its answer.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from selma.ground.errors import UserError
from selma.judging import choices
from selma.judging.vqa import BATCH, Said, VqaJudge, instruct, load_matcher
from selma.net import servers

ANSWERS, SCORES = True, True
NEEDS = ("endpoint",)
TAKES = ("matcher",)

TIMEOUT = 120  # seconds for an answer
RETRIES = 6  # further attempts after 429, 5xx or a broken connection, with the client's own backoff
TOKENS = 16  # of an answer


class EndpointVlm:
    """A server, asked one question about one image per request, BATCH of them at a time."""

    def __init__(self, model: str, base_url: str | None, key_env: str | None) -> None:
        import openai  # only where a server is asked

        self._openai, self._model = openai, model
        base_url = servers.address(base_url, param="endpoint.base_url")
        self._key = servers.read(base_url, key_env, param="endpoint.key_env")
        self._url = urlsplit(base_url).netloc
        self._logprobs = True  # until the server refuses them
        self._client = openai.OpenAI(
            api_key=self._key or "none", base_url=base_url, timeout=TIMEOUT, max_retries=RETRIES
        )

    def reply(self, image: Image.Image, texts: Sequence[str]) -> list[Said]:
        url = data_url(image)
        with ThreadPoolExecutor(BATCH) as pool:
            return list(pool.map(lambda text: self._ask(url, text), texts))

    def _ask(self, image: str, text: str) -> Said:
        message = {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": text}],
        }
        try:
            choice = self._create([message]).choices[0]
            words = choice.message.content or ""
        except self._openai.AuthenticationError:
            raise UserError(
                f"judge at {self._url}: the key was refused; endpoint.key_env names its variable"
            ) from None
        except self._openai.APIError as error:
            raise UserError(f"judge at {self._url}: {servers.one_line(str(error), self._key)}") from None
        except (IndexError, TypeError, AttributeError, ValueError):  # no JSON, or JSON of another kind
            raise UserError(f"judge at {self._url}: its answer contains no message") from None
        first = choice.logprobs.content[0].top_logprobs if choice.logprobs and choice.logprobs.content else []
        if not first:
            said = choices.normal(words).partition(" ")[0].strip(".,;:!")
            return Said(words, float(said == "yes"), float(said == "no"))
        return Said(words, *(_probability(first, word) for word in ("yes", "no")))

    def _create(self, messages: list[Any]) -> Any:
        settings = {"model": self._model, "messages": messages, "temperature": 0, "max_tokens": TOKENS}
        if self._logprobs:
            try:
                return self._client.chat.completions.create(**settings, logprobs=True, top_logprobs=20)
            except (self._openai.BadRequestError, self._openai.UnprocessableEntityError):
                self._logprobs = False  # the server does not know the field; its words must do
        return self._client.chat.completions.create(**settings)


def data_url(image: Image.Image) -> str:
    """The image as a data URL, as lossless PNG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """The judge; raises UserError for an invalid address, and for a key that is not in the environment."""
    return VqaJudge(EndpointVlm(**card["endpoint"]), instruct, load_matcher(folder))


def _probability(tokens: Sequence[Any], word: str) -> float:
    """Total over the spellings of `word` among a position's likeliest tokens."""
    return sum(math.exp(token.logprob) for token in tokens if choices.normal(token.token) == word)
