"""The client against a real HTTP server on loopback that misbehaves: an answer, or an error that says why."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from selma.ground.errors import UserError
from selma.net import asking
from selma.prompts.provider import Reply, Request, load_provider
from selma.prompts.replies import parse_reply
from selma.runtime.params import Llm
from tests.llm_server import Answer, Server, error, prompts, reply, serve

KEY = "sk-0123456789abcdef"
REQUESTS = [
    Request(index, f"Examples:\n1. a cat\n\nlist {index}", index * 7, 8, f"json {index}")
    for index in range(4)
]
Behave = Callable[[int, dict[str, Any]], Answer]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between attempts, and no key of the machine's own."""
    monkeypatch.setattr(asking, "BACKOFF", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(server: Server, requests: list[Request] = REQUESTS, **settings: Any) -> list[Reply]:
    settings = {"model": "tiny", "timeout": 5.0, "retries": 3, "concurrency": 2} | settings
    return load_provider(Llm(provider="openai", base_url=server.url, **settings)).complete(requests)


def first_then_good(*first: Answer) -> Behave:
    """These answers one after another, good ones from then on."""
    return lambda number, body: first[number] if number < len(first) else reply(body)


# What is sent ------------------------------------------------------------------------------------


def test_chat_asks_for_json() -> None:
    with serve(lambda number, body: replace(reply(body), delay=0.1)) as server:
        replies = ask(server, concurrency=4, temperature=0.7, top_p=0.9, max_tokens=99)
    assert [item.index for item in replies] == [0, 1, 2, 3]
    assert {one["path"] for one in server.seen} == {"/v1/chat/completions"}
    body = min((one["body"] for one in server.seen), key=lambda body: body["seed"])
    assert body["messages"] == [{"role": "user", "content": "json 0"}]
    assert (body["model"], body["seed"], body["temperature"]) == ("tiny", 0, 0.7)
    assert (body["top_p"], body["max_tokens"]) == (0.9, 99)
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["prompts"]
    assert parse_reply(replies[0].text) == prompts(body)
    assert 1 < server.most <= 4
    details = {"request": "json 0", "id": "cmpl-1", "model": "tiny-0613"}
    assert details.items() <= replies[0].details.items()
    assert replies[0].details["usage"]["completion_tokens"] == 100


def test_completions_asks_for_a_list() -> None:
    with serve() as server:
        replies = ask(server, REQUESTS[:1], api="completions")
    [one] = server.seen
    assert one["path"] == "/v1/completions"
    assert one["body"]["prompt"] == REQUESTS[0].text
    assert not {"messages", "response_format"} & set(one["body"])
    assert parse_reply(replies[0].text) == prompts(one["body"])


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("response_format", "'response_format' is not supported by this model"),
        ("response_format", "Bad Request"),
        ("seed", "Unknown field: seed"),
        ("seed", "Bad Request"),
        ("seed", f"{'much ' * 99} about the field: seed"),
        ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_field_that_is_refused_is_left_out_from_then_on(refused, message, status) -> None:
    def behave(number: int, body: dict[str, Any]) -> Answer:
        return error(status, message) if refused in body else reply(body)

    with serve(behave) as server:
        replies = ask(server, concurrency=1)
    assert all(len(parse_reply(item.text)) == 8 for item in replies)
    assert [refused in one["body"] for one in server.seen[:-4]] == [True] * (len(server.seen) - 4)
    assert len(server.seen) <= 6  # four requests and two refusals at most
    last = server.seen[-1]["body"]
    if refused == "response_format":
        assert last["messages"][0]["content"] == REQUESTS[3].text  # the plain list
        assert "request" not in replies[3].details
    if refused == "max_tokens":
        assert last["max_completion_tokens"] == 2048 and "response_format" in last


def test_completions_never_lose_their_limit() -> None:
    refuse = serve(lambda number, body: error(400, "max_tokens is too large"))
    with refuse as server, pytest.raises(UserError, match="400: max_tokens is too large"):
        ask(server, REQUESTS[:1], api="completions")
    assert all(one["body"]["max_tokens"] == 2048 for one in server.seen)


# What comes back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        error(429),
        error(429, headers={"Retry-After": "0.05"}),
        error(500),
        error(503, headers={"Retry-After": "0"}),
        Answer(b"<html>bad gateway</html>", 502, {"Content-Type": "text/html"}),
        error(408),
        error(409),
        Answer({}, delay=3.0),
        Answer({"choices": [{"text": "x" * 999}]}, half=True),
        Answer(b'{"choices": [{"mess'),
        Answer(b""),
        Answer(b"[" * 50_000),
        Answer(b"<html>", headers={"Content-Type": "text/html"}),
        Answer({"choices": []}),
        Answer({"error": {"message": "overloaded"}}),
        Answer({"choices": [{"message": None}]}),
        Answer(["choices"]),
    ],
    ids=lambda answer: f"{answer.status} {str(answer.body)[:24]}",
)
def test_what_a_further_attempt_can_mend(first: Answer) -> None:
    with serve(first_then_good(first, first)) as server:
        [item] = ask(server, REQUESTS[:1], timeout=1.5 if first.delay else 5.0)
    assert len(parse_reply(item.text)) == 8
    assert len(server.seen) == 3
    assert server.seen[0]["body"] == server.seen[2]["body"]


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(as_date: bool) -> None:
    wait = 1.2
    header = formatdate(time.time() + 2.2, usegmt=True) if as_date else str(wait)  # a date has whole seconds
    with serve(first_then_good(error(429, headers={"Retry-After": header}))) as server:
        start = time.monotonic()
        ask(server, REQUESTS[:1])
        assert 1.0 < time.monotonic() - start < 10.0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (error(429, "slow down"), "429: slow down, at the last of 4 attempts"),
        (error(500, "oh"), "500: oh, at the last of 4 attempts"),
        (Answer(b"no JSON"), "without a choice in it: no JSON, at the last of 4"),
        (Answer({}, delay=1.0), r"within llm.timeout \(0.2 s\), at the last of 4"),
        (Answer({"a": 1}, half=True), "no connection .*at the last of 4"),
    ],
    ids=["429", "500", "nonsense", "hang", "half"],
)
def test_what_does_not_mend_ends_in_an_error(answer: Answer, message: str) -> None:
    with serve(lambda number, body: answer) as server:
        with pytest.raises(UserError, match=message):
            ask(server, REQUESTS[:1], timeout=0.2 if answer.delay else 5.0)
        assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (error(401, "Incorrect API key provided"), "key was refused .401: Incorrect.*llm.key_env"),
        (error(403), "the key was refused"),
        (
            error(404, "The model `tiny` does not exist"),
            "model tiny or API chat not found .404: The model `tiny`",
        ),
        (Answer({"detail": "Not Found"}, 404), "404: Not Found"),
        (error(429, "no money", {"x-should-retry": "false"}, code="insufficient_quota"), "429: no money"),
        (error(429, "later", {"Retry-After": "7200"}), "asks for a wait of 7200 s"),
        (error(413, "too long"), "413: too long"),
        (Answer(b"plain\n words", 418), "418: plain words"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
def test_what_cannot_mend_ends_at_once(answer: Answer, message: str) -> None:
    with serve(lambda number, body: answer) as server:
        with pytest.raises(UserError, match=message) as raised:
            ask(server, REQUESTS[:1])
        assert len(server.seen) == 1
    assert "\n" not in str(raised.value)
    assert server.url in str(raised.value)


def test_no_server_is_an_error() -> None:
    with serve() as server:
        pass
    with pytest.raises(UserError, match="no connection"):
        ask(server, REQUESTS[:1], retries=1)


def test_one_failure_ends_the_waiting_of_the_others() -> None:
    def behave(number: int, body: dict[str, Any]) -> Answer:
        return error(401) if body["seed"] == 7 else error(429, headers={"Retry-After": "300"})

    with serve(behave) as server:
        start = time.monotonic()
        with pytest.raises(UserError):
            ask(server, concurrency=4)
        assert time.monotonic() - start < 60


def test_max_requests_counts_failures_too() -> None:
    with serve(lambda number, body: error(500) if number == 1 else reply(body)) as server:
        with pytest.raises(UserError, match="max_requests is 4 and more are needed"):
            ask(server, concurrency=1, max_requests=4)
        assert len(server.seen) == 4
    with serve() as server:
        assert len(ask(server, max_requests=4)) == 4


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "refusal": "I can't help with that."}, "I can't help with that."),
        ({"content": None}, ""),
        ({"content": ""}, ""),
        ({"content": [{"type": "text", "text": "4. a "}, {"type": "text", "text": "cat"}]}, "4. a cat"),
        (
            {
                "content": [
                    {"type": "reasoning_text", "text": "4. hm"},
                    {"type": "output_text", "text": "4. a cat"},
                ]
            },
            "4. a cat",
        ),
        (
            {"content": [{"type": "summary_text", "text": "4. hm"}, {"type": "text", "text": "4. a cat"}]},
            "4. a cat",
        ),
    ],
)
def test_replies_that_are_no_plain_text(message, text) -> None:
    answer = {"choices": [{"message": message, "finish_reason": None}]}
    with serve(lambda number, body: Answer(answer)) as server:
        [item] = ask(server, REQUESTS[:1])
    assert (item.text, item.finish_reason) == (text, "stop")
    assert item.details.get("refused", False) == bool(message.get("refusal"))


# Keys --------------------------------------------------------------------------------------------


def test_the_key_goes_where_it_is_meant_to_and_shows_nowhere(monkeypatch, capsys) -> None:
    monkeypatch.setenv("MY_SERVER", KEY)

    def echo(number: int, body: dict[str, Any]) -> Answer:
        return error(500, f"Bearer {KEY}") if number == 0 else reply(body, f"4. {KEY}", model=KEY)

    with serve(echo) as server:
        [item] = ask(server, REQUESTS[:1], key_env="MY_SERVER")
    assert server.seen[0]["headers"]["authorization"] == f"Bearer {KEY}"
    assert item.text == "4. ***"
    refuse = serve(lambda number, body: error(401, f"no such key: {KEY}"))
    with refuse as server, pytest.raises(UserError, match=r"no such key: \*\*\*"):
        ask(server, REQUESTS[:1], key_env="MY_SERVER")
    assert KEY not in "".join([*capsys.readouterr(), json.dumps(item.details)])


def test_openais_key_is_not_shown_to_another_server(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve() as server:
        ask(server, REQUESTS[:1])
    assert KEY not in json.dumps(server.seen)


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        ({"model": "gpt"}, {}, "OPENAI_API_KEY is not set; it must hold the key for https://api.openai.com"),
        (
            {"model": "gpt", "key_env": "MINE"},
            {"OPENAI_API_KEY": KEY},
            "variable that llm.key_env names is not set",
        ),
        ({"model": "gpt"}, {"OPENAI_API_KEY": " "}, "is not set"),
        ({"model": "gpt"}, {"OPENAI_API_KEY": f"{KEY}\n{KEY}"}, "does not hold a valid key"),
        ({"model": "gpt", "key_env": KEY}, {}, "must be the name of an environment variable"),
        ({}, {"OPENAI_API_KEY": KEY}, "llm.model is null"),
        ({"model": "a", "base_url": f"http://me:{KEY}@localhost/v1"}, {}, "must be an address such as"),
        ({"model": "a", "base_url": f"http://localhost/v1?key={KEY}"}, {}, "must be an address such as"),
        ({"model": "a", "base_url": "localhost:8000"}, {}, "must be an address such as"),
        ({"model": "a", "base_url": "http://[::1"}, {}, "must be an address such as"),
        ({"model": "a", "base_url": "http://host:port/v1"}, {}, "must be an address such as"),
    ],
)
def test_settings_that_cannot_work(monkeypatch, settings, environment, message) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as raised:
        load_provider(Llm(provider="openai", **settings))
    assert KEY not in str(raised.value)
