"""The client of OpenAI-compatible servers: OpenAI, vLLM, llama.cpp, Ollama and others (`llm.provider: openai`).

It takes a server as it is: one that is busy, fails, hangs or answers nonsense is asked again, one that refuses
a field of the request is asked without it. What it cannot fix ends in a UserError; no message contains the key.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Mapping
from typing import Any

from selma.ground.errors import UserError
from selma.net import servers
from selma.prompts.answers import error_message, read_answer, retry_after
from selma.prompts.provider import Provider, Reply, Request, ThreadedProvider
from selma.runtime.params import Llm

BACKOFF = 1.0  # seconds before the first retry; doubled for each further one
LONGEST = 60.0  # seconds that this doubles up to
PATIENCE = 600.0  # seconds that a server may ask us to wait (Retry-After); more ends the run
RETRIED = {408, 409, 425, 429}  # and anything from 500 up
SCHEMA = {
    "type": "object",
    "properties": {"prompts": {"type": "array", "items": {"type": "string"}}},
    "required": ["prompts"],
    "additionalProperties": False,
}
# Fields that some servers refuse, in the order in which they are dropped. Without `max_tokens` the same limit
# is sent as `max_completion_tokens`, its name for OpenAI's newer models.
OPTIONAL = ("response_format", "seed", "max_tokens")


def load(settings: Llm) -> Provider:
    """The provider; raises UserError for settings that it cannot work with."""
    client = Client(settings)
    return ThreadedProvider(client.answer, settings.concurrency, client.identity)


class Client:
    """Answers one request at a time, from any number of threads."""

    def __init__(self, settings: Llm) -> None:
        """Sends nothing yet. Raises UserError for a missing model, an invalid address or a missing key."""
        import openai

        self._settings = settings
        self._url = servers.address(settings.base_url, param="llm.base_url")
        if not settings.model:
            raise UserError(
                "llm.model is null; provider openai needs the name of a model that the server has"
            )
        self._key = servers.read(self._url, settings.key_env, param="llm.key_env")
        self._openai = openai.OpenAI(
            api_key=self._key or "none",  # a local server ignores it
            base_url=self._url,
            timeout=settings.timeout,
            max_retries=0,  # ours also cover what the library takes for an answer
        )
        self._given_up: frozenset[str] = frozenset()  # fields that this server refused
        self._failed = 0  # requests without an answer
        self._stop = threading.Event()  # one request's failure ends the waiting of the others
        self._lock = threading.Lock()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What determines a reply besides its request."""
        names = ("model", "api", "temperature", "top_p", "max_tokens")
        return {"base_url": self._url} | {name: getattr(self._settings, name) for name in names}

    def answer(self, request: Request) -> Reply:
        """The server's answer, whatever it says; raises UserError if the server gives none."""
        given_up = self._given_up
        tried = 0
        while True:
            try:
                reply = self._ask(request, given_up)
            except _Refused as error:
                field = _blamed(error.text, self._body(request, given_up))
                if field is None:
                    raise self._end(error.problem) from None
                given_up |= {field}
            except _Failed as error:
                tried += 1
                if tried > self._settings.retries:
                    raise self._end(f"{error.problem}, at the last of {tried} attempts") from None
                wait = _backoff(tried) if error.wait is None else error.wait
                self._say(f"{error.problem}; the next attempt is in {wait:.0f} s")
                if self._stop.wait(wait):
                    raise self._end(error.problem) from None
            else:
                for field in sorted(given_up - self._given_up):
                    self._say(f"this server does not accept {field}; continuing without it")
                self._given_up |= given_up
                return reply
            with self._lock:
                self._failed += 1

    def _ask(self, request: Request, given_up: frozenset[str]) -> Reply:
        """One request over the wire."""
        import openai

        settings = self._settings
        if request.index + self._failed >= settings.max_requests:
            raise self._end(f"llm.max_requests is {settings.max_requests} and more are needed; raise it")
        body = self._body(request, given_up)
        api = self._openai.chat.completions if settings.api == "chat" else self._openai.completions
        try:
            response = api.with_raw_response.create(**body)
            raw = servers.hide(response.http_response.text, self._key)
            request_id = servers.hide(response.headers.get("x-request-id", ""), self._key)
        except openai.APIStatusError as error:
            raise self._judge(error.status_code, error.response.headers, error.response.text) from None
        except openai.APITimeoutError:
            raise _Failed(f"no answer within llm.timeout ({settings.timeout:g} s)") from None
        except openai.APIConnectionError as error:
            raise _Failed(
                f"no connection ({servers.one_line(str(error.__cause__ or error), self._key)})"
            ) from None
        answer = read_answer(raw, request.index)
        if answer is None:
            raise _Failed(f"an answer without a choice in it: {servers.one_line(raw, self._key) or 'empty'}")
        details = {"request": request.as_json} if "response_format" in body else {}
        details |= {"request_id": request_id} if request_id else {}
        return Reply(answer.index, answer.text, answer.finish_reason, details | answer.details)

    def _body(self, request: Request, given_up: frozenset[str]) -> dict[str, Any]:
        """The request as it is sent."""
        settings = self._settings
        body: dict[str, Any] = {"model": settings.model, "seed": request.seed}
        body |= {"temperature": settings.temperature, "top_p": settings.top_p}
        body["max_tokens"] = settings.max_tokens
        if settings.api == "completions":
            body["prompt"] = request.text
        else:
            schema = {"name": "prompts", "strict": True, "schema": SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
            as_json = "response_format" not in given_up
            body["messages"] = [{"role": "user", "content": request.as_json if as_json else request.text}]
            if "max_tokens" in given_up:
                body["max_completion_tokens"] = settings.max_tokens
        return {name: value for name, value in body.items() if name not in given_up}

    def _judge(self, status: int, headers: Mapping[str, str], text: str) -> Exception:
        """What an HTTP error means for the request."""
        said = f"{status}: {servers.one_line(error_message(text), self._key)}"
        if status in (400, 422):
            return _Refused(said, text)
        if status in (401, 403):
            return self._end(f"the key was refused ({said}); llm.key_env names the variable that holds it")
        if status == 404:
            return self._end(f"model {self._settings.model} or API {self._settings.api} not found ({said})")
        again = headers.get("x-should-retry")
        if again == "false" or (again != "true" and status not in RETRIED and status < 500):
            return self._end(said)
        wait = retry_after(headers)
        if wait is not None and wait > PATIENCE:
            return self._end(f"{said}; it asks for a wait of {wait:.0f} s")
        return _Failed(said, wait)

    def _end(self, problem: str) -> UserError:
        """The error that ends the run."""
        self._stop.set()
        return UserError(
            f"LLM at {self._url}: {problem}. Replies so far are kept; a new run resumes from them"
        )

    def _say(self, note: str) -> None:
        print(f"LLM at {self._url}: {note}", file=sys.stderr, flush=True)


class _Failed(Exception):
    """No answer this time; another attempt may succeed, after `wait` seconds if the server said so."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        self.problem, self.wait = problem, wait


class _Refused(Exception):
    """The server refuses the request; `text` is its full response."""

    def __init__(self, problem: str, text: str) -> None:
        self.problem, self.text = problem, text


def _blamed(text: str, body: Mapping[str, Any]) -> str | None:
    """The field to drop after a refusal: the one that it names, else the next in line; None if none are left."""
    sent = [name for name in OPTIONAL if name in body and (name != "max_tokens" or "messages" in body)]
    return next((name for name in sent if name in text), sent[0] if sent else None)


def _backoff(tried: int) -> float:
    """Seconds to wait after so many failures, slightly different for each thread."""
    return min(BACKOFF * 2.0 ** (tried - 1), LONGEST) * random.uniform(0.75, 1.0)
