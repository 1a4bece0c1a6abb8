"""Asking a server that refuses fields, says the key back, never ends, or cannot be reached as the environment says."""

from __future__ import annotations

import base64
import gzip
import html
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selma.ground.errors import UserError
from selma.judging.groups import Said
from selma.net import asking, refusals, servers, web
from selma.prompts.provider import Reply, Request, load_provider
from selma.runtime.params import Llm
from selma.variants.judges import endpoint
from tests.llm_server import Answer, error, reply, serve

KEY = 'sk-A/b"c+d=0123&<z>%'
REQUESTS = [Request(index, f"list {index}", index * 7, 8, f"json {index}") for index in range(2)]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between attempts, and nothing of the machine's own environment."""
    monkeypatch.setattr(asking, "BACKOFF", 0.01)
    for name in (*PROXIES, "openai_api_key", "openai_org_id", "openai_project_id"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(url: str, requests: list[Request] = REQUESTS[:1], **settings: Any) -> list[Reply]:
    settings = {"model": "tiny", "timeout": 5.0, "retries": 1, "concurrency": 1, "base_url": url} | settings
    return load_provider(Llm(provider="openai", **settings)).complete(requests)


def judge(url: str, key_env: str | None = None) -> Said:
    asked = [(Image.new("RGB", (2, 2)), ["Is it red?"])]
    (came,) = endpoint.EndpointVlm("tiny", url, key_env).replies(asked, 1)
    return came[0, 0]


# Fields ------------------------------------------------------------------------------------------


def refusing(field: str, answer: Answer) -> Callable[[int, dict[str, Any]], Answer]:
    return lambda number, body: answer if field in body else reply(body)


WORDINGS: dict[str, tuple[str, Answer]] = {
    "OpenAI, by param": (
        "temperature",
        error(400, "Unsupported value: does not support 0.7 with this model.", param="temperature"),
    ),
    "OpenAI, by name": (
        "top_p",
        error(400, "Unsupported parameter: 'top_p' is not supported with this model.", param=None),
    ),
    "OpenAI, part of a field": ("response_format", error(400, "Invalid", param="response_format.type")),
    "FastAPI, which says the request back": (
        "top_p",
        Answer(
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "top_p"],
                        "msg": "Extra inputs are not permitted",
                        "input": {"response_format": {}, "seed": 1, "temperature": 1},
                    }
                ]
            },
            422,
        ),
    ),
    "Gemini": (
        "seed",
        Answer([{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}], 400),
    ),
    "LiteLLM": (
        "top_p",
        error(500, "UnsupportedParamsError: model does not support parameters: {'top_p': 0.9}"),
    ),
    "OpenRouter, 404": ("response_format", error(404, "No endpoints found that support response format")),
    "an error that comes as 200": (
        "top_p",
        Answer({"error": {"message": "top_p is not permitted", "code": 400}}),
    ),
    "structured output by another name": (
        "response_format",
        error(400, "This model does not support structured outputs"),
    ),
    "in an answer, without a code": ("top_p", Answer({"error": "top_p is not supported"})),
    "in an answer, of vLLM's": (
        "top_p",
        Answer({"object": "error", "message": "top_p is not supported", "code": 400}),
    ),
    "not allowed, 405": ("top_p", error(405, "top_p is not supported")),
    "not allowed, 403": ("top_p", error(403, "You are not allowed to set top_p for this model")),
    "llama.cpp, 501": ("response_format", error(501, "grammar is not supported by this build")),
    "in words": ("top_p", Answer(b"Top P cannot be set for this model", 400)),
    "one named after another": (
        "temperature",
        error(400, "`temperature` is not supported; control sampling by `top_p`."),
    ),
}


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_field_that_is_refused_by_name_is_dropped_alone_with_one_line(wording: str, capsys) -> None:
    field, answer = WORDINGS[wording]
    with serve(refusing(field, answer)) as server:
        replies = ask(server.url, REQUESTS, temperature=0.7, top_p=0.9)
    first, *others = [set(one["body"]) for one in server.seen]
    assert others == [first - {field}] * 2  # one refusal, and no other field is lost
    said = capsys.readouterr().err
    assert said.count(f"this server does not accept {field}; continuing without it") == said.count("\n") == 1
    sampling = field in ("temperature", "top_p")
    assert ("its own value applies, so the answers differ" in said) == sampling
    assert [item.details.get("not_sent") for item in replies] == [[field] if sampling else None] * 2


@pytest.mark.parametrize("field", ["response_format", "seed", "top_p", "temperature", "max_tokens"])
@pytest.mark.parametrize("answer", [error(400, "Bad Request"), Answer(b"", 422)], ids=["400", "422"])
def test_a_field_that_is_refused_without_a_name_is_found(field: str, answer: Answer) -> None:
    with serve(refusing(field, answer)) as server:
        ask(server.url, REQUESTS)
    everything, last = set(server.seen[0]["body"]), set(server.seen[-1]["body"])
    renamed = {"max_completion_tokens"} if field == "max_tokens" else set()
    assert last == everything - {field} | renamed
    assert len(server.seen) <= 7


SAMPLING = ["response_format", "seed", "top_p", "max_tokens", "temperature"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("Unrecognized request argument supplied: seed", "seed"),
        ("[{'type': 'extra_forbidden', 'loc': ('body', 'top_p'), 'input': {'seed': 1}}]", "top_p"),
        ("Input validation error: `top_p` must be > 0.0 and < 1.0", "top_p"),
        ("`inputs` tokens + `max_new_tokens` must be <= 2048", "max_tokens"),
        ("This response_format type is unavailable now", "response_format"),
        ("Argument not supported on this model: topP", "top_p"),
        ("top_p\u53c2\u6570\u975e\u6cd5", "top_p"),
        ("create() got an unexpected keyword argument 'seed'", "seed"),
        ("temperature and top_p are mutually exclusive", "top_p"),
        ("Cannot specify temperature with top_p", "top_p"),
        ("only one of temperature, top_p may be set", "top_p"),
        ("'temperature' is not supported with this model, use 'top_p'", "temperature"),
        ("The request was stopped: too many topics, reseeded, hot temperatures", None),
        ("The model seed-oss-36b does not exist", None),
        ("max_completion_tokens is not known", None),
    ],
)
def test_the_field_that_a_refusal_names(text: str, field: str | None) -> None:
    assert refusals.blamed(text, SAMPLING) == field
    assert refusals.blamed(json.dumps({"error": {"message": text, "param": None}}), SAMPLING) == field


def test_a_refusal_of_the_messages_is_not_about_a_field() -> None:
    answer = error(400, "This model's maximum context length is 512 tokens", param="messages")
    with serve(lambda number, body: answer) as server:
        with pytest.raises(UserError, match="400: This model's maximum context"):
            ask(server.url)
        assert len(server.seen) == 1


def test_two_fields_that_do_not_go_together_keep_the_temperature() -> None:
    both = error(400, "`temperature` and `top_p` cannot both be specified for this model. Use only one.")
    with serve(lambda number, body: both if {"temperature", "top_p"} <= set(body) else reply(body)) as server:
        ask(server.url)
    assert [("temperature" in one["body"], "top_p" in one["body"]) for one in server.seen] == [
        (True, True),
        (True, False),
    ]


def test_all_of_them_refused_one_by_one() -> None:
    def behave(number: int, body: dict[str, Any]) -> Answer:
        extra = sorted(set(body) - {"model", "messages"})
        return error(400, f"Extra inputs are not permitted: {extra[0]}") if extra else reply(body)

    with serve(behave) as server:
        ask(server.url, REQUESTS)
    assert set(server.seen[-1]["body"]) == {"model", "messages"}
    assert len(server.seen) == 1 + 6 + 1  # each once, the limit under both of its names


def test_all_of_them_refused_without_a_name() -> None:
    """Even the limit, whose two names no other guess leaves out together."""
    refused = error(400, "Bad Request")
    with serve(lambda number, body: refused if set(body) - {"model", "messages"} else reply(body)) as server:
        ask(server.url, REQUESTS)
    assert set(server.seen[-1]["body"]) == {"model", "messages"}


def test_a_refusal_of_what_was_accepted_before_is_not_about_a_field() -> None:
    refused = error(400, "The prompt triggered our content policy")
    with serve(lambda number, body: refused if number == 1 else reply(body)) as server:
        with pytest.raises(UserError, match="400: The prompt triggered our content policy"):
            ask(server.url, REQUESTS)
        assert len(server.seen) == 2


def test_a_limit_that_is_too_large_is_not_dropped() -> None:
    answer = error(
        400, "max_tokens is too large: 2048. This model supports at most 1024.", param="max_tokens"
    )
    with (
        serve(lambda number, body: answer) as server,
        pytest.raises(UserError, match="max_tokens is too large"),
    ):
        ask(server.url)
    assert len(server.seen) == 1


@pytest.mark.parametrize("field", ["logprobs", "top_logprobs", "max_tokens", "temperature"])
@pytest.mark.parametrize("named", [True, False])
def test_the_judge_drops_what_is_refused_too(field: str, named: bool, capsys) -> None:
    answer = error(400, f"unknown field {field}" if named else "Bad Request")
    with serve(refusing(field, answer)) as server:
        judge(server.url)
    assert field not in server.seen[-1]["body"]
    kept = {"logprobs", "max_tokens", "temperature"} - {field.removeprefix("top_")}
    assert kept <= set(server.seen[-1]["body"])
    assert "this server does not accept" in capsys.readouterr().err


@given(st.text(), st.lists(st.sampled_from(["response_format", "seed", "top_p", "max_tokens"]), unique=True))
def test_no_refusal_is_too_odd_to_be_read(text: str, fields: list[str]) -> None:
    assert refusals.blamed(text, fields) in (None, *fields)
    assert isinstance(refusals.error_message(text), str)
    assert refusals.error_code(text) is None
    assert refusals.retry_after({"retry-after": text}) is None or text.strip()


# The key -----------------------------------------------------------------------------------------

SPELLINGS: dict[str, str] = {
    "as it is": KEY,
    "for JSON": json.dumps(KEY)[1:-1],
    "slashes escaped": json.dumps(KEY)[1:-1].replace("/", "\\/"),
    "every letter escaped": "".join(f"\\u{ord(letter):04x}" for letter in KEY),
    "some in capitals": "".join(f"\\u{ord(letter):04X}" if letter in "skz" else letter for letter in KEY),
    "escaped twice": json.dumps(json.dumps(KEY)[1:-1].replace("s", "\\u0073"))[1:-1],
    "for a URL": quote(KEY, safe=""),
    "for a URL twice": quote(quote(KEY, safe=""), safe=""),
    "for HTML": html.escape(KEY),
    "for HTML by number": "".join(f"&#{ord(letter)};" for letter in KEY),
    "for HTML in hex": "".join(f"&#x{ord(letter):x};" for letter in KEY),
    "in base64": base64.b64encode(KEY.encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_key_is_found_however_it_is_written(spelling: str) -> None:
    text = f"before {SPELLINGS[spelling]} after"
    assert servers.hide(text, KEY) == "before *** after"


@pytest.mark.parametrize("before", ["", "x", "Bearer ", "key: "])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_key_in_base64_is_found_wherever_it_begins(before: str, encode: Callable[[bytes], bytes]) -> None:
    left = servers.hide(encode(f"{before}{KEY} and more".encode()).decode(), KEY)
    assert left.endswith("***") and len(left) <= 3 + 2 * len(before)


def test_a_servers_words_cannot_steer_the_terminal() -> None:
    assert servers.one_line("no\x1b[2J\x00 \u202e\ud83d model\r\n", KEY) == "no [2J ? model"


def test_html_names_are_no_secret_of_a_plain_key() -> None:
    key = "sk-0123456789abcdef"
    assert servers.hide(html.escape(f"<{key}>"), key) == "&lt;***&gt;"
    assert servers.hide("EMPTY", "EMPTY") == "EMPTY"


@given(st.text(alphabet="\\u0073k-/ab%25&#;x{}", max_size=60))
def test_hiding_leaves_no_key_and_other_text_alone(text: str) -> None:
    key = "sk-/ab-sk"
    assert key not in servers.hide(text, key)
    if "k" not in text and "6b" not in text.lower():
        assert servers.hide(text, key) == text


@pytest.mark.parametrize(
    "where", ["content", "parts", "id", "model", "finish_reason", "usage", "error", "html"]
)
def test_a_key_that_is_said_back_is_nowhere(where: str, monkeypatch, capsys) -> None:
    key = "sk-0123/456789"
    monkeypatch.setenv("MINE", key)
    escaped = "\\u0073k-0123\\/456789"

    def behave(number: int, body: dict[str, Any]) -> Answer:
        if where == "error":
            return Answer(f'{{"error": {{"message": "no {escaped}"}}}}'.encode(), 500)
        if where == "html":
            return Answer(f"<html>Bearer {escaped}".encode(), 200, {"Content-Type": "text/html"})
        answer = reply(body).body
        choice = answer["choices"][0]
        if where == "content":
            choice["message"]["content"] = '["KEY"]'
        elif where == "parts":
            choice["message"]["content"] = [{"text": f"4. {key[:5]}"}, {"text": f"{key[5:]} KEY"}]
        elif where == "finish_reason":
            choice[where] = "KEY"
        elif where == "usage":
            answer[where] = {"KEY": 1, "of": ["KEY"]}
        else:
            answer[where] = "KEY"
        return Answer(json.dumps(answer).replace("KEY", escaped).encode(), headers={"x-request-id": key})

    with serve(behave) as server:
        if where in ("error", "html"):
            with pytest.raises(UserError) as raised:
                ask(server.url, key_env="MINE")
            said = str(raised.value)
        else:
            said = repr(ask(server.url, key_env="MINE"))
    said += "".join(capsys.readouterr())
    assert "***" in said
    assert not any(secret in said for secret in (key, escaped, escaped.replace("\\", "\\\\")))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"base_url": "http://api.openai.com/v1"}, "never sent over plain http"),
        ({"base_url": "http://10.0.0.1/v1", "key_env": "OPENAI_API_KEY"}, "never sent over plain http"),
        ({"base_url": "http://api.openai.com/v1", "key_env": "MINE"}, "never sent over plain http"),
        ({"base_url": "http://eu.api.openai.com./v1", "key_env": "MINE"}, "never sent over plain http"),
        ({"base_url": "http://llm.example.org/v1", "key_env": "MINE"}, "over plain http to a public server"),
        ({"base_url": "http://8.8.8.8/v1", "key_env": "MINE"}, "over plain http to a public server"),
        (
            {"base_url": "http://[2001:4860:4860::8888]/v1", "key_env": "MINE"},
            "plain http to a public server",
        ),
        ({"key_env": "SK0123456789ABCDEF"}, "the environment variable that llm.key_env names is not set"),
    ],
)
def test_a_key_goes_by_https_and_is_not_quoted(settings: dict[str, str], says: str, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MINE", KEY)
    with pytest.raises(UserError, match=says) as raised:
        load_provider(Llm(provider="openai", model="gpt", **settings))
    assert "SK0123456789ABCDEF" not in str(raised.value) and KEY not in str(raised.value)


def test_openais_account_stays_with_openai(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Mine: {KEY}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with serve() as server:
        ask(server.url)
    sent = json.dumps(server.seen)
    assert not any(secret in sent for secret in ("org-1", "proj-1", "X-Mine", "uthorization"))
    assert servers.headers("https://myapi.openai.com.example/v1", KEY) == {"Authorization": f"Bearer {KEY}"}
    assert servers.headers(servers.OPENAI, KEY) == {
        "Authorization": f"Bearer {KEY}",
        "OpenAI-Organization": "org-1",
        "OpenAI-Project": "proj-1",
    }


# Time and size -----------------------------------------------------------------------------------


@pytest.mark.parametrize("slow_headers", [False, True])
def test_an_answer_that_drips_is_given_up(slow_headers: bool) -> None:
    drips = Answer({"pad": "x" * 9999}, drip=0.05, slow_headers=slow_headers)
    with serve(lambda number, body: drips) as server:
        start = time.monotonic()
        with pytest.raises(UserError, match=r"no whole answer within 5 times llm\.timeout \(0.2 s\)"):
            ask(server.url, timeout=0.2)
        assert 2.0 <= time.monotonic() - start < 20.0  # two attempts


def test_a_judge_that_hangs_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.2)
    monkeypatch.setattr(endpoint, "RETRIES", 1)
    hangs = serve(lambda number, body: Answer({}, delay=1.0))
    with (
        hangs as server,
        pytest.raises(UserError, match=r"no answer within 0\.2 s, at the last of 2 attempts"),
    ):
        judge(server.url)


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_that_is_too_large_is_given_up(packed: bool) -> None:
    data = b'{"choices": "' + b"x" * 50_000_000
    headers = {"Content-Encoding": "gzip"} if packed else {}
    with serve(
        lambda number, body: Answer(gzip.compress(data, 1) if packed else data, 200, headers)
    ) as server:
        with pytest.raises(UserError, match="an answer of more than 4 MB, at the last of 2 attempts"):
            ask(server.url)
        server.behave = lambda number, body: Answer(data, 401)
        with pytest.raises(UserError, match="the key was refused"):
            ask(server.url)


# Redirects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "location", "says"),
    [
        (302, "/v1/other", r"redirects \(302\) to http://127\.0\.0\.1:\d+/v1/other; llm\.base_url must be"),
        (301, "/v1/other", "redirects .301."),
        (303, "/v1/other", "redirects .303."),
        (308, "http://localhost:9/v1?token=secret", r"redirects \(308\) to http://localhost:9/v1;"),
        (307, "http://[::1", "to what is no address"),
        (307, "ftp://127.0.0.1/x", "redirects .307. to ftp"),
        (307, "http://\xe4\xff..b/", "redirects .307. to"),
        (307, "", "redirects"),
        (307, "/v1/chat/completions", "redirects more than 3 times"),
    ],
)
def test_a_redirect_that_cannot_be_followed_is_one_line(status: int, location: str, says: str) -> None:
    with serve(lambda number, body: Answer({}, status, {"Location": location})) as server:
        with pytest.raises(UserError, match=says) as raised:
            ask(server.url)
        assert len(server.seen) <= 4
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_redirect_within_the_server_is_followed_by_post(monkeypatch) -> None:
    def behave(number: int, body: dict[str, Any]) -> Answer:
        return reply(body) if number else Answer({}, 307, {"Location": "/elsewhere/completions"})

    with serve(behave) as server:
        ask(server.url)
    assert [one["path"] for one in server.seen] == ["/v1/chat/completions", "/elsewhere/completions"]
    assert server.seen[0]["body"] == server.seen[1]["body"]


# Odd answers -------------------------------------------------------------------------------------

DEEP = b"[" * 3000 + b"]" * 3000
ODD: dict[str, bytes] = {
    "nested": b'{"choices": ' + DEEP + b"}",
    "nested beside": b'{"x": ' + DEEP + b', "choices": [{"message": {"content": "4. a cat"}}]}',
    "digits": b'{"created": ' + b"9" * 5000 + b', "choices": [{"message": {"content": "4. a cat"}}]}',
    "half a pair": b'{"id": "\\ud83d", "choices": [{"message": {"content": "4. a cat \\ud83d"}}]}',
    "no UTF-8": b'{"id": "\xff\xfe", "choices": [{"message": {"content": "4. a cat \xff"}}]}',
    "UTF-16": '{"choices": [{"message": {"content": "4. a cat"}}]}'.encode("utf-16"),
    "a mark": b"\xef\xbb\xbf" + b'{"choices": [{"message": {"content": "4. a cat"}}]}',
    "infinite": b'{"x": [NaN, -Infinity, 1e999], "choices": [{"message": {"content": "4. a cat"}}]}',
    "null": b"null",
    "choices of another kind": b'{"choices": {"0": 1}}',
    "a choice of another kind": b'{"choices": [7]}',
    "an error of another kind": b'{"error": [[]], "choices": 0}',
}


@pytest.mark.parametrize("kind", ODD)
def test_no_answer_is_too_odd(kind: str) -> None:
    """It is read, or it is one line; what is read can be written as UTF-8."""
    with serve(lambda number, body: Answer(ODD[kind])) as server:
        for asked in (lambda: ask(server.url), lambda: judge(server.url)):
            try:
                said = asked()
            except UserError as stopped:
                assert "an answer without a choice in it" in str(stopped) and "\n" not in str(stopped)
                assert b'"content"' not in ODD[kind] or kind == "nested beside"
            else:
                assert "4. a cat" in str(said)
                str(said).encode()


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Served-By", "Content-Type"])
def test_headers_may_hold_any_bytes(name: str) -> None:
    with serve(lambda number, body: replace(reply(body), headers={name: "caf\xe9 \xff"})) as server:
        (item,) = ask(server.url)
        server.behave = lambda number, body: error(401, "no", {name: "caf\xe9 \xff"})
        with pytest.raises(UserError, match="the key was refused"):
            ask(server.url)
    assert item.text
    str(item).encode()


def test_what_no_file_can_hold_is_null() -> None:
    usage = b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": ' + b"9" * 5000 + b', "e": 7, "f": 0.5}'
    body = b'{"choices": [{"message": {"content": "4. a cat"}}], "usage": ' + usage + b"}"
    with serve(lambda number, _: Answer(body)) as server:
        (item,) = ask(server.url)
    assert item.details["usage"] == dict.fromkeys("abcd") | {"e": 7, "f": 0.5}


@pytest.mark.parametrize("charset", ["iso-8859-1", "cp1252", "none", "zlib_codec"])
def test_an_answer_in_another_encoding_is_read_as_its_header_says(charset: str) -> None:
    body = '{"choices": [{"message": {"content": "4. a café"}}]}'.encode("cp1252")
    headers = {"Content-Type": f"application/json; charset={charset}"}
    with serve(lambda number, _: Answer(body, headers=headers)) as server:
        (item,) = ask(server.url)
    assert item.text == ("4. a café" if charset in ("iso-8859-1", "cp1252") else "4. a caf\ufffd")


@pytest.mark.parametrize(
    "logprobs",
    [
        [],
        {"content": {}},
        {"content": [{"top_logprobs": [{"token": 1, "logprob": "x"}]}]},
        {"content": [{"top_logprobs": [{"token": "yes", "logprob": None}]}]},
        {"content": [{"top_logprobs": [{"token": "yes", "logprob": 1e300}]}]},
        {"tokens": ["yes"], "top_logprobs": [{"yes": -0.1}]},
    ],
)
def test_log_probabilities_of_another_shape_are_as_good_as_none(logprobs: object) -> None:
    choice = {"message": {"content": "Yes."}, "logprobs": logprobs}
    with serve(lambda number, body: Answer({"choices": [choice]})) as server:
        assert judge(server.url) == Said("Yes.", 1.0, 0.0)


def test_a_judge_that_only_thinks_is_one_line() -> None:
    choice = {"message": {"content": "", "reasoning_content": "Let me look"}, "finish_reason": "length"}
    thinking = serve(lambda number, body: Answer({"choices": [choice]}))
    with thinking as server, pytest.raises(UserError, match="its 16 tokens ended before it said a word"):
        judge(server.url)


# The environment ---------------------------------------------------------------------------------

BAD_PROXIES = [
    "socks5://me:secret@host:1",
    "socks4://me:secret@host",
    "http://me:secret@:3",
    "http://me:secret@[::1",
    "secret",
    "http://",
    "\xe4 secret",
]


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("value", BAD_PROXIES)
def test_a_proxy_that_cannot_be_used_is_one_line_and_no_matter_on_loopback(
    variable, value, monkeypatch
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("NO_PROXY", "[::1, /, ::")
    with serve() as server:
        for url in (
            server.url,
            server.url.replace("127.0.0.1", "localhost"),
            server.url.replace("127.0.0", "127"),
        ):
            assert ask(url)[0].text
    for asked in (ask, judge):
        with pytest.raises(UserError) as raised:
            asked("http://example.invalid/v1")
        assert variable.lower() in str(raised.value).lower()
        assert "secret" not in str(raised.value) or (value == "secret" and "names:" in str(raised.value))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSL_CERT_FILE", "/nowhere"),
        ("SSL_CERT_FILE", "a file"),
        ("SSL_CERT_DIR", "/nowhere"),
        ("SSLKEYLOGFILE", "/nowhere/x"),
    ],
)
def test_certificates_that_are_none_are_one_line_and_no_matter_over_http(
    variable: str, value: str, monkeypatch, tmp_path: Path
) -> None:
    for name in (*web.CERTIFICATES, "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("no certificate")
    monkeypatch.setenv(variable, str(tmp_path / "file") if value == "a file" else value)
    if variable == "SSLKEYLOGFILE":
        import certifi

        monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    with serve() as server:
        assert ask(server.url)[0].text
        for asked in (ask, judge):
            with pytest.raises(UserError, match=f"environment variable {variable} must name a f"):
                asked(server.url.replace("http:", "https:"))


@pytest.mark.parametrize("asked", [ask, judge])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://no-such-host.invalid/v1", "its name does not resolve"),
        ("https://no-such-host.invalid/v1", "its name does not resolve"),
        (f"http://{'a' * 70}.invalid/v1", "its name does not resolve"),
    ],
)
def test_a_name_that_does_not_resolve_is_asked_once(asked, url: str, says: str, capsys) -> None:
    with pytest.raises(UserError, match=says):
        asked(url)
    assert "next attempt" not in capsys.readouterr().err


def test_no_tls_there_is_said_at_once(capsys) -> None:
    with serve() as server, pytest.raises(UserError, match="no secure connection"):
        ask(server.url.replace("http:", "https:"))
    assert "next attempt" not in capsys.readouterr().err


def test_a_proxy_is_asked_for_other_servers(monkeypatch) -> None:
    with serve() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        ask("http://example.invalid/v1")
        monkeypatch.setenv("no_proxy", "example.invalid")
        with pytest.raises(UserError, match="does not resolve"):
            ask("http://example.invalid/v1")
    assert [one["path"] for one in proxy.seen] == ["http://example.invalid/v1/chat/completions"]
