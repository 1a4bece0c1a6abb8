"""The blocks of docs/llm-endpoints.md, each against a server on loopback that speaks that server's dialect."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from ruamel.yaml import YAML

from selma.ground.errors import UserError
from selma.ground.items import Question
from selma.net import asking
from selma.prompts.provider import Request, load_provider
from selma.prompts.replies import parse_reply
from selma.runtime.params import Llm, Params, build_params
from selma.variants.judges import endpoint
from tests.llm_server import Answer, Server, error, prompts, reply, serve

ROOT = Path(__file__).parents[1]
KEY = "sk-0123456789abcdef"
REQUESTS = [Request(i, f"Examples:\n1. a cat\n\nlist {i}", i * 7, 8, f"json {i}") for i in range(3)]
Behave = Callable[[int, dict[str, Any]], Answer]


def blocks(page: str) -> list[tuple[str, dict[str, Any]]]:
    """The YAML blocks of a page, each with the heading that it stands under."""
    found, heading, lines = [], "", None
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if lines is not None and line == "```":
            found.append((heading, YAML(typ="safe").load("\n".join(lines))))
            lines = None
        elif lines is not None:
            lines.append(line)
        elif line == "```yaml":
            lines = []
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    return found


PAGE = blocks("llm-endpoints.md")
ASKED = [(heading, block["llm"]) for heading, block in PAGE if "llm" in block]


def with_block(block: dict[str, Any]) -> Params:
    """params.yaml with the values of a block, as a person would write them into it."""
    params = copy.deepcopy(YAML(typ="safe").load(ROOT / "params.yaml"))

    def put(into: dict[str, Any], values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                put(into[key], value)
            else:
                into[key] = value

    put(params, block)
    return build_params(params, "params.yaml")


@pytest.mark.parametrize(("heading", "block"), [*PAGE, *blocks("own-data.md")])
def test_a_block_can_be_copied_into_params_yaml(heading, block):
    params = with_block(block)
    if "judge" in block:
        assert params.judge.name in (*params.judges, *params.own.judges)


# Each server's dialect ---------------------------------------------------------------------------


def fenced(body: dict[str, Any]) -> str:
    return f"Here are the prompts:\n\n```json\n{json.dumps({'prompts': prompts(body)}, indent=2)}\n```"


def openai(number: int, body: dict[str, Any]) -> Answer:
    if not body["model"].startswith("gpt-5"):
        return reply(body)
    for field, instead in (("max_tokens", " Use 'max_completion_tokens' instead."), ("top_p", "")):
        if field in body:
            said = f"Unsupported parameter: '{field}' is not supported with this model.{instead}"
            return error(400, said, param=field, code="unsupported_parameter")
    if body.get("temperature", 1) != 1:
        said = "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is"
        return error(400, f"{said} supported.", param="temperature", code="unsupported_value")
    answer = reply(body)
    answer.body["usage"]["completion_tokens_details"] = {"reasoning_tokens": 64}
    return answer


def vllm(number: int, body: dict[str, Any]) -> Answer:
    if number == 1:  # as a server without --reasoning-parser has it
        thought = "<think>\nThey want kites.\n1. one bad idea\n</think>\n\n"
        return reply(body, thought + "\n".join(f"{i}. {text}" for i, text in enumerate(prompts(body), 1)))
    answer = reply(
        body, **({"reasoning_content": "They want kites.", "tool_calls": []} if "messages" in body else {})
    )
    answer.body.update({"prompt_logprobs": None, "kv_transfer_params": None})
    answer.body["choices"][0] |= {"stop_reason": None, "logprobs": None}
    return answer


def ollama(number: int, body: dict[str, Any]) -> Answer:
    answer = reply(body, reasoning="They want kites.")
    answer.body.update({"system_fingerprint": "fp_ollama"})
    return answer


def llama_cpp(number: int, body: dict[str, Any]) -> Answer:
    if number == 0:
        return Answer({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503)
    answer = reply(body, reasoning_content="They want kites.")
    answer.body.update({"timings": {"prompt_n": 20, "predicted_per_second": 41.5}, "__verbose": {}})
    return answer


def anthropic(number: int, body: dict[str, Any]) -> Answer:
    if "temperature" in body and "top_p" in body:
        said = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        return Answer({"error": {"code": "invalid_request_error", "message": said, "param": None}}, 400)
    if number == 1:
        return Answer({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529)
    return reply(body, fenced(body))  # response_format is ignored


def gemini(number: int, body: dict[str, Any]) -> Answer:
    if "seed" in body:
        said = 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
        details = [
            {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"description": said}]}
        ]
        body = {"code": 400, "message": said, "status": "INVALID_ARGUMENT", "details": details}
        return Answer([{"error": body}], 400)
    return reply(body)


DIALECTS: dict[str, Behave] = {
    "OpenAI": openai,
    "vLLM": vllm,
    "Ollama": ollama,
    "llama.cpp": llama_cpp,
    "Anthropic": anthropic,
    "Gemini": gemini,
}
LACKS = {"gpt-5-mini": {"max_tokens", "top_p"}, "Anthropic": {"top_p"}, "Gemini": {"seed"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BACKOFF", 0.01)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, KEY)


def moved(block: dict[str, Any], server: Server) -> Llm:
    """The block's settings, the server of this machine in place of its own, by the same path."""
    url = block.get("base_url") or "https://api.openai.com/v1"
    key_env = block.get("key_env") or ("OPENAI_API_KEY" if "base_url" not in block else None)
    base_url = server.url.removesuffix("/v1") + urlsplit(url).path
    return with_block({"llm": {**block, "base_url": base_url, "key_env": key_env, "concurrency": 1}}).llm


@pytest.mark.parametrize(("heading", "block"), ASKED)
def test_the_dialect_is_understood(heading, block, capsys):
    with serve(DIALECTS[heading]) as server:
        settings = moved(block, server)
        replies = load_provider(settings).complete(REQUESTS)
    last = server.seen[-1]
    asked = "chat/completions" if settings.api == "chat" else "completions"
    assert last["path"] == f"{urlsplit(settings.base_url).path.rstrip('/')}/{asked}"
    needs_key = "base_url" not in block or "key_env" in block
    assert last["headers"].get("authorization") == (f"Bearer {KEY}" if needs_key else None)
    for found in replies:
        texts = parse_reply(found.text)
        assert len(texts) == 8 and not any("bad idea" in text or "want" in text for text in texts)
        assert found.finish_reason == "stop" and found.details["usage"]["total_tokens"] == 300
    lacking = LACKS.get(block["model"], LACKS.get(heading, set()))
    assert {"model", "temperature", "top_p", "seed"} - last["body"].keys() == lacking - {"max_tokens"}
    limit = "max_completion_tokens" if "max_tokens" in lacking else "max_tokens"
    assert last["body"][limit] == settings.max_tokens
    assert ("response_format" in last["body"]) == (settings.api == "chat")
    if settings.api == "chat":
        assert [message["role"] for message in last["body"]["messages"]] == ["user"]
    assert KEY not in capsys.readouterr().err


def test_a_warmer_reasoning_model_is_asked_without_its_temperature(capsys):
    with serve(openai) as server:
        settings = moved({"provider": "openai", "model": "gpt-5-mini", "temperature": 0.7}, server)
        (found,) = load_provider(settings).complete(REQUESTS[:1])
    assert found.details["not_sent"] == ["temperature", "top_p"]
    assert "does not accept temperature" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            error(404, "The model `x` does not exist.", type="NotFoundError", code=404),
            "The model `x` does not exist",
        ),
        (
            Answer({"object": "error", "message": "The model `x` does not exist.", "code": 404}, 404),
            "The model `x` does not exist",
        ),
        (error(404, 'model "x" not found, try pulling it first', code=None), "try pulling it first"),
        (
            error(
                400,
                "This model's maximum context length is 4096 tokens. However, you requested max_tokens=9000",
            ),
            "maximum context length is 4096",
        ),
        (
            Answer(
                [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], 400
            ),
            "key",
        ),
        (error(401, "invalid x-api-key"), "the key was refused"),
    ],
    ids=["vllm", "older vllm", "ollama", "too long", "gemini's key", "anthropic's key"],
)
def test_what_a_server_says_no_to_is_one_line_in_its_words(answer, says):
    with serve(lambda number, body: answer) as server, pytest.raises(UserError) as caught:
        settings = moved({"provider": "openai", "model": "x", "retries": 1}, server)
        load_provider(settings).complete(REQUESTS[:1])
    assert says in str(caught.value) and "\n" not in str(caught.value) and KEY not in str(caught.value)


# Judges ------------------------------------------------------------------------------------------

JUDGES = [
    (name, row["endpoint"])
    for _, block in PAGE
    for name, row in block.get("judges", {}).items()
    if "endpoint" in row
]


def vllm_says(body: dict[str, Any], text: str, first: dict[str, float]) -> Answer:
    """A VLM's answer as vLLM writes it; `first` are the probabilities of its first token, 0 as vLLM's -9999."""
    tokens = [
        {"token": token, "logprob": math.log(p) if p else -9999.0, "bytes": list(token.encode())}
        for token, p in first.items()
    ]
    answer = reply(body, text, reasoning_content=None, tool_calls=[])
    answer.body["choices"][0] |= {
        "logprobs": {"content": [tokens[0] | {"top_logprobs": tokens}, tokens[0] | {"top_logprobs": tokens}]},
        "stop_reason": None,
    }
    answer.body.update({"prompt_logprobs": None})
    return answer


@pytest.mark.parametrize(("name", "row"), JUDGES)
def test_a_vlm_behind_vllm_answers_and_scores(name, row, tmp_path):
    yes_no = Question("1", "Is it red?", ("yes", "no"), "yes", (), "color")

    def behave(number: int, body: dict[str, Any]) -> Answer:
        assert body["max_tokens"] == 16 and body["top_logprobs"] == 20 and body["model"] == row["model"]
        picture, text = body["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,") and text["type"] == "text"
        return vllm_says(body, "Yes", {"Yes": 0.7, "No": 0.2, " yes": 0.05, "The": 0.0})

    with serve(behave) as server:
        base_url = server.url.removesuffix("/v1") + urlsplit(row["base_url"]).path
        judge = endpoint.load(
            tmp_path,
            {"endpoint": {"model": row["model"], "base_url": base_url, "key_env": None}},
            "cpu",
            "float32",
        )
        image = Image.new("RGB", (64, 64), "red")
        (answer,) = judge.answer(image, [yes_no])
        score = judge.score(image, "a red square")
    assert answer.answer == "yes" and answer.p_yes == pytest.approx(0.75 / 0.95)
    assert score == pytest.approx(0.75)
    assert {one["path"] for one in server.seen} == {"/v1/chat/completions"}


def test_a_vlm_that_thinks_first_is_one_line(tmp_path):
    def behave(number: int, body: dict[str, Any]) -> Answer:
        return reply(body, "", "length", reasoning_content="The user asks whether")

    yes_no = Question("1", "Is it red?", ("yes", "no"), "yes", (), "color")
    with (
        serve(behave) as server,
        pytest.raises(UserError, match="a model that answers without reasoning is needed"),
    ):
        card = {"endpoint": {"model": "Qwen3-VL-Thinking", "base_url": server.url, "key_env": None}}
        endpoint.load(tmp_path, card, "cpu", "float32").answer(Image.new("RGB", (8, 8)), [yes_no])


def test_every_server_of_the_page_has_a_dialect():
    assert {heading for heading, _ in ASKED} == DIALECTS.keys()
    table = re.findall(r"^\| (\w[\w.]*)", (ROOT / "docs/llm-endpoints.md").read_text(), re.MULTILINE)
    assert {name for name in table if name != "server"} == DIALECTS.keys()
