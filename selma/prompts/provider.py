"""Asking an LLM: requests, replies, and the providers that answer them.

A provider answers requests; which one is `llm.provider` in params.yaml, a file of selma/variants/providers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from selma.net.flight import Flight
from selma.runtime import variants

if TYPE_CHECKING:
    from selma.runtime.params import Llm


@dataclass(frozen=True)
class Form:
    """What a reply in JSON looks like, for a server that can be held to it: a name and a JSON Schema.

    The schema is one that OpenAI's strict mode takes: every property required, no others allowed.
    """

    name: str
    schema: Mapping[str, Any]


PROMPTS = Form(
    "prompts",
    {
        "type": "object",
        "properties": {"prompts": {"type": "array", "items": {"type": "string"}}},
        "required": ["prompts"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True)
class Request:
    """One question to the LLM.

    `index` counts requests from 0, `n` is how many prompts it asks for, `as_json` the same question for a
    server that answers in JSON, of the `form`. `placed` says that its reply is that of this index alone; without it,
    a reply on file to the same text and seed is taken, whatever its index was.
    """

    index: int
    text: str
    seed: int
    n: int
    as_json: str = ""
    form: Form = field(default=PROMPTS, hash=False)
    placed: bool = True


@dataclass(frozen=True)
class Reply:
    """The LLM's raw answer to the request of the same index.

    `finish_reason` is the server's own word, "stop" for a whole answer (others: replies.CUT_OFF). `details`
    is what else there is to keep, in plain data: the text that was sent if not the request's, id, model, usage.
    """

    index: int
    text: str
    finish_reason: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Provider(Protocol):
    """Something that answers requests, several at a time."""

    # What determines a reply besides the request, for a provider whose replies are worth keeping beyond the
    # run; None for one that is code of this repository.
    identity: Mapping[str, Any] | None

    def complete(
        self, requests: Sequence[Request], done: Callable[[Reply], None] | None = None
    ) -> list[Reply]:
        """Replies in request order; `done` gets each one as it comes, in any order, in the calling thread."""
        ...


class ThreadedProvider:
    """A provider from a function that answers one request."""

    def __init__(
        self,
        answer: Callable[[Request], Reply],
        concurrency: int,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """`answer` must be safe to call from `concurrency` (at least 1) threads at once."""
        self._answer = answer
        self._concurrency = concurrency
        self.identity = identity

    def complete(
        self, requests: Sequence[Request], done: Callable[[Reply], None] | None = None
    ) -> list[Reply]:
        """Replies in request order, whatever the order they came in.

        After a failure, `done`'s too, requests in flight finish and go to `done`, so that no reply is paid for and
        lost, no others start, and the first failure is raised; Ctrl-C does not wait.
        """
        replies: dict[int, Reply] = {}
        flight = Flight(self._answer, requests, self._concurrency)
        for _, reply in flight:
            replies[reply.index] = reply
            try:
                if done is not None:
                    done(reply)
            except Exception as error:
                flight.stop(error)
        return [replies[request.index] for request in requests]


def load_provider(settings: Llm) -> Provider:
    """The provider that `settings` name; raises UserError for settings that it cannot work with."""
    return variants.load("providers", settings.provider, "llm.provider").load(settings)
