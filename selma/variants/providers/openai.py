"""The client of OpenAI-compatible servers: OpenAI, vLLM, llama.cpp, Ollama and others (`llm.provider: openai`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selma.ground.errors import UserError
from selma.net.asking import Server
from selma.prompts.answers import read_answer
from selma.prompts.provider import Provider, Reply, Request, ThreadedProvider
from selma.runtime.params import Llm

# Fields that some servers refuse, the most dispensable first.
OPTIONAL = ("response_format", "seed", "top_p", "max_tokens", "temperature")
SAMPLING = {"temperature", "top_p"}  # those of them that determine the answers


def load(settings: Llm) -> Provider:
    """The provider; raises UserError for settings that it cannot work with."""
    client = Client(settings)
    return ThreadedProvider(client.answer, settings.concurrency, client.identity)


class Client:
    """Answers one request at a time, from any number of threads."""

    def __init__(self, settings: Llm) -> None:
        """Sends nothing yet. Raises UserError for a missing model, an invalid address or a missing key."""
        if not settings.model:
            raise UserError(
                "llm.model is null; provider openai needs the name of a model that the server has"
            )
        self._settings = settings
        self._server = Server(
            settings.base_url,
            settings.key_env,
            who="LLM",
            section="llm",
            model=f"model {settings.model} or API {settings.api}",
            timeout=settings.timeout,
            timeout_is="llm.timeout",
            retries=settings.retries,
            optional=OPTIONAL,
            ending=". Replies so far are kept; a new run resumes from them",
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """What determines a reply besides its request."""
        names = ("model", "api", "temperature", "top_p", "max_tokens")
        return {"base_url": self._server.url} | {name: getattr(self._settings, name) for name in names}

    def answer(self, request: Request) -> Reply:
        """The server's answer, whatever it says; raises UserError if the server gives none."""
        settings, server = self._settings, self._server

        def body(given_up: frozenset[str]) -> dict[str, Any]:
            if request.index + server.failed >= settings.max_requests:
                raise server.end(f"llm.max_requests is {settings.max_requests} and more are needed; raise it")
            return self._body(request, as_json="response_format" not in given_up)

        path = "chat/completions" if settings.api == "chat" else "completions"
        answer, request_id, given_up = server.ask(path, body, lambda text: read_answer(text, request.index))
        as_json = settings.api == "chat" and "response_format" not in given_up
        details: dict[str, Any] = {"request": request.as_json} if as_json else {}
        details |= {"request_id": request_id} if request_id else {}
        if dropped := sorted(SAMPLING & given_up):
            details["not_sent"] = dropped
        # Hidden once more: a text that came in parts is whole only now.
        return Reply(answer.index, server.hide(answer.text), answer.finish_reason, details | answer.details)

    def _body(self, request: Request, as_json: bool) -> dict[str, Any]:
        """The request with every field that a server may know."""
        settings = self._settings
        body: dict[str, Any] = {"model": settings.model, "seed": request.seed}
        body |= {"temperature": settings.temperature, "top_p": settings.top_p}
        body["max_tokens"] = settings.max_tokens
        if settings.api == "completions":
            return body | {"prompt": request.text}
        schema = {"name": request.form.name, "strict": True, "schema": request.form.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body | {
            "messages": [{"role": "user", "content": request.as_json if as_json else request.text}]
        }
