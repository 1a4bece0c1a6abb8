"""The endpoint judge against a real HTTP server on loopback that speaks the protocol and misbehaves."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.ground.items import Item, Question
from selma.ground.pairs import Pair
from selma.judging.judge import Answer, load_judge
from selma.judging.kept import tokens_of
from selma.judging.many import ask_all
from selma.net import asking
from selma.picking.rating import rated
from selma.rewards.judged import JudgeReward
from selma.runtime.places import JUDGE_CARD, JUDGES
from selma.variants.judges import endpoint

KEY = "sk-secret-of-the-judge"
YES_NO = Question("1", "Is it red?", ("yes", "no"), "yes", (), "color")
COLOR = Question("2", "What color is it?", ("red", "blue"), "red", (), "color")


class Server(ThreadingHTTPServer):
    """Answers from a list of (status, headers, body) first, then by `reply(request)`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, dict[str, str], str]] = []
        self.reply = lambda request: completion("yes")
        self.requests: list[dict] = []
        self.keys: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        self.server.keys.add(self.headers["Authorization"])
        scripted = self.server.script.pop(0) if self.server.script else None
        status, headers, body = scripted or (200, {}, json.dumps(self.server.reply(request)))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


def completion(text: str, first: dict[str, float] | None = None) -> dict:
    """A chat completion; `first` are the probabilities of its first token."""
    top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in (first or {}).items()]
    logprobs = {"content": [top[0] | {"top_logprobs": top}], "refusal": None} if top else None
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Short waits between attempts."""
    monkeypatch.setattr(asking, "BACKOFF", 0.01)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def judge(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    settings = {
        "model": "tiny",
        "base_url": f"http://127.0.0.1:{server.server_port}/v1",
        "key_env": "JUDGE_KEY",
    }
    write_json(JUDGES / "mine" / JUDGE_CARD, {"kind": "endpoint", "endpoint": settings})
    return load_judge("mine")


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_noise((6, 4), 80).convert("RGB")


def test_the_picture_arrives_whole_with_the_question_and_its_choices(server, judge, image):
    server.reply = lambda request: completion("red" if "color" in str(request) else "yes")
    assert judge.answer(image, [COLOR]) == [Answer("red", None)]
    (request,) = server.requests
    picture, text = request["messages"][0]["content"]
    kind, _, data = picture["image_url"]["url"].partition(",")
    arrived = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/png;base64" and arrived.tobytes() == image.tobytes()
    assert text["text"] == "What color is it? Choices: red, blue. Please answer with one of the choices only."
    assert (request["model"], request["temperature"]) == ("tiny", 0)
    assert server.keys == {f"Bearer {KEY}"}


def test_answers_keep_the_questions_order(server, judge, image):
    server.reply = lambda request: completion(request["messages"][0]["content"][1]["text"].split()[1])
    questions = [
        Question(str(i), f"Is {('yes', 'no')[i % 3 > 0]} it?", ("yes", "no"), "yes", (), "c")
        for i in range(11)
    ]
    assert [a.answer for a in judge.answer(image, questions)] == [("yes", "no")[i % 3 > 0] for i in range(11)]


def test_p_yes_is_read_off_the_first_token_over_spellings(server, judge, image):
    server.reply = lambda request: completion("No", {"No": 0.5, "Yes": 0.2, " yes": 0.1, "Well": 0.1})
    (answer,) = judge.answer(image, [YES_NO])
    assert answer.answer == "no" and answer.p_yes == pytest.approx(0.3 / 0.8)
    assert judge.score(image, "a red circle") == pytest.approx(0.3)
    assert 'Does this figure show "a red circle"? Please answer yes or no.' in str(server.requests[-1])


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 210, "completion_tokens": 1, "total_tokens": 211}, (210, 1)),
        (None, None),
        ("many", None),
        ({"prompt_tokens": 210}, None),
        ({"prompt_tokens": "210", "completion_tokens": 1}, None),
        ({"prompt_tokens": True, "completion_tokens": 1}, None),
        ({"prompt_tokens": -1, "completion_tokens": 1}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 1}, None),
    ],
    ids=str,
)
def test_what_an_answer_took_is_kept_with_it(server, judge, image, usage, tokens):
    server.reply = lambda request: completion("yes") | ({} if usage is None else {"usage": usage})
    assert judge.answer(image, [YES_NO]) == [Answer("yes", 1.0, tokens=tokens)]
    item = Item("c0", "a red circle", "count", "test", (YES_NO, YES_NO))
    rows = [row for came in ask_all(judge, [(item, 0, image)]) for row in came]
    assert [row.get("tokens") for row in rows] == [tokens and [*tokens]] * 2
    wanted = {"prompt_tokens": 2 * tokens[0], "completion_tokens": 2 * tokens[1]} if tokens else {}
    assert tokens_of(rows) == wanted and tokens_of([*rows, {}]) == {} == tokens_of([])
    (row,) = (row for came in rated_by(judge, item, image) for row in came)
    assert row.get("tokens") == (tuple(wanted.values()) or None)


def rated_by(judge, item: Item, image: Image.Image):
    """The rows of stage rate."""
    image.save("c0-0.png")
    pair = Pair(file=Path("c0-0.png"), id=item.id, seed=0, text=item.prompt)
    return rated(JudgeReward("mine", judge, answers=True, batch=8), [pair], {item.id: item}, lambda _: False)


def test_a_server_that_knows_no_log_probabilities_is_asked_without(server, judge, image):
    refusal = json.dumps({"error": {"message": "logprobs: unknown field"}})
    server.script = [(400, {}, refusal)]
    assert judge.answer(image, [YES_NO]) == [Answer("yes", 1.0)]
    assert judge.answer(image, [YES_NO]) == [Answer("yes", 1.0)]
    assert ["logprobs" in request for request in server.requests] == [True, False, False]


def test_too_many_requests_and_a_server_error_are_tried_again(server, judge, image):
    busy = json.dumps({"error": {"message": "slow down"}})
    server.script = [(429, {"Retry-After": "0"}, busy), (500, {"Retry-After": "0"}, busy)]
    assert judge.answer(image, [YES_NO])[0].answer == "yes"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, json.dumps({"error": {"message": f"bad key {KEY}"}}), "the key was refused"),
        (404, json.dumps({"error": {"message": f"no model tiny for {KEY}"}}), "no model tiny"),
        (200, "{ not json", "an answer without a choice in it"),
        (200, json.dumps({"choices": []}), "an answer without a choice in it"),
        (200, json.dumps({"detail": "another kind of object"}), "an answer without a choice in it"),
    ],
)
def test_what_cannot_be_tried_again_is_one_line_without_the_key(server, judge, image, status, body, says):
    server.script = [(status, {}, body)] * 9
    with pytest.raises(UserError, match=says) as caught:
        judge.answer(image, [YES_NO])
    assert "\n" not in str(caught.value) and KEY not in str(caught.value)
    assert f"127.0.0.1:{server.server_port}" in str(caught.value)


def load(folder, model: str, base_url: str | None, key_env: str | None):
    card = {"endpoint": {"model": model, "base_url": base_url, "key_env": key_env}}
    return endpoint.load(folder, card, "cpu", "float32")


def test_a_server_that_is_not_there_is_named(tmp_path, monkeypatch, image):
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    judge = load(tmp_path, "tiny", "http://127.0.0.1:1/v1", None)
    with pytest.raises(UserError, match=r"^judge at http://127\.0\.0\.1:1/v1: "):
        judge.answer(image, [YES_NO])


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:1/v1"])
def test_a_key_that_is_named_is_needed_before_any_request(tmp_path, monkeypatch, url):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match=r"variable that endpoint\.key_env names is not set"):
        load(tmp_path, "gpt", url, "JUDGE_KEY")


@pytest.mark.parametrize(
    "url",
    ["http://[::1/v1", "http://host:port/v1", "localhost:8000/v1", f"https://me:{KEY}@api.openai.com/v1"],
)
def test_an_address_that_is_none_is_named_and_not_shown(tmp_path, url):
    with pytest.raises(UserError, match=r"^endpoint\.base_url must be an address such as") as caught:
        load(tmp_path, "gpt", url, None)
    assert KEY not in str(caught.value)
