"""Stage `questions`: every prompt's questions from the embedded LLM, from nobody, or from a server that misbehaves."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from selma.ground.errors import UserError
from selma.ground.files import read_json, write_jsonl
from selma.ground.items import Item, Question, load_items, write_items
from selma.net import asking
from selma.prompts.provider import Reply, Request, ThreadedProvider
from selma.prompts.questioning import AGAIN, FIRST
from selma.prompts.questions import MOST, read_questions
from selma.prompts.store import RecordedProvider
from selma.runtime import stage
from selma.shapes.world.questions import parse_question
from stages import questions as questions_stage
from tests.llm_server import Answer, Server, instruction, reply, serve

ROOT = Path(__file__).parents[1]
N = FIRST + 5
PHOTOS = [{"id": f"count-{i}", "text": f"photo {i} of {i} dogs on a lawn"} for i in range(N)]
SHAPES = [
    {"id": "count-a", "text": "exactly three small red circles on plain white"},
    {"id": "count-b", "text": "a red circle above a large blue square"},
]


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The code and a copy of params.yaml, with a server as the LLM and N filtered prompts about dogs."""
    for name in ("selma", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    write_jsonl(tmp_path / "data/filtered/count/prompts.jsonl", PHOTOS)
    change(tmp_path, "llm", provider="openai", model="tiny", timeout=5, retries=3, concurrency=4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "questions@count")
    monkeypatch.setattr(asking, "BACKOFF", 0.01)
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    """One server whose behaviour a test changes: its address is part of what a reply is found again by."""
    with serve(lambda number, body: reply(body, good(body))) as server:
        yield server


def change(repo: Path, section: str, **values: object) -> None:
    yaml = YAML()
    params = yaml.load(repo / "params.yaml")
    assert set(values) <= set(params[section])
    params[section].update(values)
    yaml.dump(params, repo / "params.yaml")


def run(repo: Path, server: Server | None = None, **settings: object) -> dict[str, bytes]:
    """The stage's out and metrics by name."""
    change(repo, "llm", **({"base_url": server.url} if server else {}), **settings)
    questions_stage.main("count")
    files = [*sorted((repo / "data/questions/count").iterdir()), repo / "metrics/questions/count.json"]
    return {path.name: path.read_bytes() for path in files}


def items(repo: Path) -> list[Item]:
    return load_items(repo / "data/questions/count/prompts.jsonl")


def asked_about(body: dict[str, Any]) -> str:
    """The prompt that a request is about."""
    return [line for line in instruction(body).splitlines() if line.startswith("Prompt: ")][-1][8:]


def rows(prompt: str) -> list[dict[str, Any]]:
    """Sound questions about a photo."""
    number = prompt.split()[1]
    return [
        {"id": "1", "question": "Are there dogs?", "category": "entity", "parents": []},
        {"id": "2", "question": f"Are there exactly {number} dogs?", "category": "count", "parents": ["1"]},
    ]


def good(body: dict[str, Any]) -> str:
    return json.dumps({"questions": rows(asked_about(body))})


RUBBISH = "As you wish: there is a dog in it."


# The embedded LLM, and nobody ---------------------------------------------------------------------


def test_the_embedded_llm_asks_what_its_judge_can_answer(repo: Path) -> None:
    write_jsonl(repo / "data/filtered/count/prompts.jsonl", SHAPES)
    first = run(repo, provider="shapes")
    found = items(repo)
    assert [(one.id, one.prompt) for one in found] == [(row["id"], row["text"]) for row in SHAPES]
    assert all((one.skill, one.source, one.absent) == ("count", "filter", ()) for one in found)
    kinds = [[parse_question(question.text)[0] for question in one.questions] for one in found]
    assert kinds == [
        ["exists", "color", "size", "count", "background"],
        ["exists", "color", "exists", "color", "size", "relation"],
    ]
    assert found[1].questions[-1].text == "Is the circle above the square?"
    assert found[1].questions[-1].parents == ("1", "3")
    metrics = read_json(repo / "metrics/questions/count.json")
    assert metrics == {"prompts": 2, "questions": 11, "without": 0, "requests": 2}
    assert not (repo / ".llm").exists()
    change(repo, "llm", concurrency=1)
    assert run(repo) == first


def test_none_asks_nobody(repo: Path, server: Server) -> None:
    change(repo, "questions", source="none")
    run(repo, server, max_requests=1)
    assert not server.seen and not (repo / ".llm").exists()
    assert [(one.prompt, one.questions) for one in items(repo)] == [(row["text"], ()) for row in PHOTOS]
    metrics = read_json(repo / "metrics/questions/count.json")
    assert metrics == {"prompts": N, "questions": 0, "without": N, "requests": 0}


def test_a_prompt_of_another_world_goes_without(repo: Path) -> None:
    write_jsonl(repo / "data/filtered/count/prompts.jsonl", [*SHAPES, {"id": "count-c", "text": "a dog"}])
    run(repo, provider="shapes")
    assert items(repo)[-1].questions == ()
    metrics = read_json(repo / "metrics/questions/count.json")
    assert (metrics["without"], metrics["requests"]) == (1, 3 + AGAIN)


# A server ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_server_is_asked_once_for_each_prompt(repo: Path, server: Server, api: str) -> None:
    run(repo, server, api=api, input_price=0.5, output_price=2)
    assert sorted(asked_about(one["body"]) for one in server.seen) == sorted(row["text"] for row in PHOTOS)
    for one in items(repo):
        assert one.questions[1].text == f"Are there exactly {one.prompt.split()[1]} dogs?"
        assert (one.questions[1].choices, one.questions[1].answer) == (("yes", "no"), "yes")
    assert read_json(repo / "metrics/questions/count.json") == {
        "prompts": N,
        "questions": 2 * N,
        "without": 0,
        "requests": N,
        "prompt_tokens": 200 * N,
        "completion_tokens": 100 * N,
        "estimated_cost": round(N * (200 * 0.5 + 100 * 2) / 1e6, 6),
    }
    if api == "chat":
        (schema,) = {
            json.dumps(one["body"]["response_format"]["json_schema"], sort_keys=True) for one in server.seen
        }
        assert json.loads(schema)["name"] == "questions"
        assert "parents" in schema and "prompts" not in schema


def test_a_server_that_refuses_a_schema_is_asked_in_words_and_its_numbers_are_ids(
    repo: Path, server: Server
) -> None:
    def behave(number: int, body: dict[str, Any]) -> Answer:
        if "response_format" in body:
            return Answer({"error": {"message": "response_format is not supported"}}, 400)
        said = [row | {"id": int(row["id"]), "parents": [0]} for row in rows(asked_about(body))]
        draft = json.dumps({"questions": said[:1]})
        fenced = f"```json\n{json.dumps({'questions': said}, indent=2)}\n```"
        return reply(body, f"<think>First a draft: {draft}</think>\nSure!\n{fenced}")

    server.behave = behave
    run(repo, server)
    assert all([question.id for question in one.questions] == ["1", "2"] for one in items(repo))
    assert not any(question.parents for one in items(repo) for question in one.questions)


def test_what_is_of_no_use_at_first_is_asked_for_again(repo: Path, server: Server) -> None:
    seeds: dict[str, list[int]] = {}
    lock = threading.Lock()

    def behave(number: int, body: dict[str, Any]) -> Answer:
        with lock:
            seen = seeds.setdefault(asked_about(body), [])
            seen.append(body["seed"])
            return reply(body, good(body) if len(seen) == 1 + AGAIN else RUBBISH)

    server.behave = behave
    run(repo, server)
    assert all(len(set(seen)) == 1 + AGAIN for seen in seeds.values()) and len(seeds) == N
    metrics = read_json(repo / "metrics/questions/count.json")
    assert (metrics["without"], metrics["requests"]) == (0, (1 + AGAIN) * N)


def test_a_few_without_questions_are_counted(repo: Path, server: Server) -> None:
    server.behave = lambda number, body: reply(body, RUBBISH if "photo 3 " in str(body) else good(body))
    run(repo, server)
    metrics = read_json(repo / "metrics/questions/count.json")
    assert (metrics["without"], metrics["requests"]) == (1, N + AGAIN)
    assert [one.id for one in items(repo) if not one.questions] == ["count-3"]


@pytest.mark.parametrize(
    ("said", "finish_reason", "says"),
    [
        (RUBBISH, "stop", "holds no list of questions .*begins 'As you wish"),
        ("", "stop", "is empty"),
        ('{"questions": [{"id": "1", "que', "length", "is cut off: raise llm.max_tokens"),
        ('{"questions": []}', "stop", "holds 0 questions"),
    ],
)
def test_nothing_but_rubbish_is_one_line_and_noticed_early(
    repo: Path, server: Server, said: str, finish_reason: str, says: str, capsys, monkeypatch
) -> None:
    server.behave = lambda number, body: reply(body, said, finish_reason)
    monkeypatch.setattr(sys, "argv", ["questions", "count"])
    change(repo, "llm", base_url=server.url)
    with pytest.raises(SystemExit) as left:
        stage.run(questions_stage.main)
    assert left.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert f"no usable questions for {FIRST} of {FIRST} prompts" in line
    assert re.search(says, line)
    assert len(server.seen) == (1 + AGAIN) * FIRST, "not every prompt's four requests are paid for"
    assert not (repo / "data/questions").exists() and not (repo / "metrics").exists()


def test_more_than_half_without_is_an_error_even_if_the_first_are_well(repo: Path, server: Server) -> None:
    more = [{"id": f"more-{i}", "text": f"photo {i} of a cat"} for i in range(2 * N)]
    write_jsonl(repo / "data/filtered/count/prompts.jsonl", [*PHOTOS, *more])
    server.behave = lambda number, body: reply(body, RUBBISH if "a cat" in str(body) else good(body))
    with pytest.raises(UserError, match=f"no usable questions for {2 * N} of {3 * N} prompts"):
        run(repo, server, max_requests=1000)
    assert not (repo / "data/questions").exists()


def test_a_limit_below_the_number_of_prompts_is_said_before_anything_is_asked(
    repo: Path, server: Server
) -> None:
    with pytest.raises(UserError, match=f"max_requests is 7, .* once for each of the {N} prompts .*; raise"):
        run(repo, server, max_requests=7)
    assert not server.seen


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("", "has no prompts"), ('{"id": "a"}\n', "missing key text")],
)
def test_broken_prompts_are_one_line(repo: Path, content: str | None, says: str) -> None:
    path = repo / "data/filtered/count/prompts.jsonl"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=says):
        run(repo, provider="shapes")


# Nothing twice -----------------------------------------------------------------------------------


def test_another_order_and_more_prompts_ask_for_the_new_ones_alone(
    repo: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(repo / "data/filtered/count/prompts.jsonl", PHOTOS[:10])
    run(repo, server)
    assert len(server.seen) == 10
    write_jsonl(repo / "data/filtered/count/prompts.jsonl", PHOTOS[::-1])
    whole = run(repo, server)
    assert len(server.seen) == N and len(set(server.answered)) == N
    assert f"10 of {N} replies were reused" in capsys.readouterr().out
    assert read_json(repo / "metrics/questions/count.json")["requests"] == N
    shutil.rmtree(repo / ".llm")
    assert run(repo, server) == whole  # as a run that never had a reply


def test_a_killed_run_asks_again_for_nothing_that_it_had(repo: Path, server: Server) -> None:
    """kill -9 while a request is in flight; the next run's outs are those of a run that was never killed."""
    change(repo, "llm", base_url=server.url, concurrency=2)
    hangs, killed = threading.Event(), threading.Event()

    def behave(number: int, body: dict[str, Any]) -> Answer:
        if number == 7:
            hangs.set()
            killed.wait(60)
            return Answer({}, delay=0.01)
        return reply(body, good(body))

    server.behave = behave
    process = subprocess.Popen([sys.executable, "-m", "stages.questions", "count"], cwd=repo)
    assert hangs.wait(120)
    file, until = repo / ".llm/count.questions.jsonl", time.monotonic() + 60
    while file.read_bytes().count(b"\n") < 6 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed.set()
    kept = {json.loads(line)["seed"] for line in file.read_bytes().splitlines() if line.endswith(b"}")}
    assert 6 <= len(kept) < N and not (repo / "data/questions").exists()
    before = len(server.seen)
    server.behave = lambda number, body: reply(body, good(body))
    resumed = run(repo, server)
    assert not kept & {one["body"]["seed"] for one in server.seen[before:]}
    shutil.rmtree(repo / ".llm")
    assert run(repo, server) == resumed


def test_replies_of_the_stage_prompts_are_found_by_the_keys_that_they_always_had(tmp_path: Path) -> None:
    identity = {"model": "tiny"}
    parts = [identity, 3, 5, "20 more prompts", "the same as JSON"]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    row = {"key": key, "index": 3, "reply": "1. a cat", "finish_reason": "stop"}
    write_jsonl(tmp_path / "count.jsonl", [row])
    nobody: Callable[[Request], Reply] = lambda request: pytest.fail("it is on file")  # noqa: E731
    provider = RecordedProvider(ThreadedProvider(nobody, 1, identity), tmp_path / "count.jsonl")
    (found,) = provider.complete([Request(3, "20 more prompts", 5, 20, "the same as JSON")])
    assert (found.text, provider.reused) == ("1. a cat", 1)


# Replies and items -------------------------------------------------------------------------------


def one(**changes: Any) -> dict[str, Any]:
    return {"id": "1", "question": "Is there a dog?", "category": "entity", "parents": []} | changes


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([one(question=" ")], "without text"),
        ([one(question="?")], "without text"),
        ([one(), "Is it big?"], "without an id"),
        ([one(id=None)], "without an id"),
        ([one(id=True)], "without an id"),
        ([one(), one()], "two questions of the id '1'"),
        ([one(), one(id=1)], "two questions of the id '1'"),
        ([one(parents=["2"])], "unknown question '2'"),
        ([one(id=str(i)) for i in range(MOST + 1)], f"holds {MOST + 1} questions"),
    ],
)
def test_a_reply_that_is_not_sound_is_of_no_use(value: Any, says: str) -> None:
    for said in ({"questions": value}, {"prompt": "a dog", "questions": value}):
        with pytest.raises(ValueError, match=says):
            read_questions(json.dumps(said))


@pytest.mark.parametrize(
    ("said", "parents"),
    [
        (json.dumps([one(), one(id=2, parents=1)]), ("1",)),
        (json.dumps({"questions": [one(), one(id=2, parents=["1", 1])]}), ("1",)),
        (json.dumps({"questions": [one(), one(id=2, parents=None)]}), ()),
        (json.dumps({"questions": [one(id=0), one(id=2, parents=[0])]}), ("0",)),
        ("Draft: " + json.dumps({"questions": [one()]}) + "\nFinal: " + json.dumps([one(), one(id=2)]), ()),
    ],
)
def test_what_models_write_is_read(said: str, parents: tuple[str, ...]) -> None:
    *_, last = read_questions(said)
    assert (last.id, last.parents, last.answer, last.choices) == ("2", parents, "yes", ("yes", "no"))


def test_a_question_is_one_line_that_any_file_holds(tmp_path: Path) -> None:
    odd = one(question="Is there\n a \ud83d dog?", category="")
    questions = read_questions(json.dumps({"questions": [odd]}))
    write_items(tmp_path / "x.jsonl", [Item("a", "a dog", "s", "filter", questions)])
    ((question,),) = [item.questions for item in load_items(tmp_path / "x.jsonl")]
    assert question.category == "other" and "\n" not in question.text and "dog?" in question.text


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("id", "question", "questions", "category", "parents")), inner)
    ),
)


@given(value=junk, text=st.text(max_size=20), cut=st.integers(0, 60))
def test_any_reply_is_read_or_refused_in_one_line(value: Any, text: str, cut: int) -> None:
    for said in (text + json.dumps(value), json.dumps({"questions": value})[:cut] + text, "[" * 5000):
        try:
            questions = read_questions(said)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
        else:
            ids = {question.id for question in questions}
            assert len(ids) == len(questions) and all(set(question.parents) <= ids for question in questions)


QUESTIONS = st.lists(st.text("abc", min_size=1), unique=True, max_size=4).flatmap(
    lambda ids: st.tuples(
        *(
            st.builds(
                Question,
                st.just(id),
                st.text("ab?", min_size=1),
                st.just(("yes", "no")),
                st.sampled_from(("yes", "no")),
                st.lists(st.sampled_from(ids), unique=True).map(tuple),
                st.just("entity"),
            )
            for id in ids
        )
    )
)


@given(all_questions=st.lists(QUESTIONS, min_size=1, max_size=4))
def test_items_come_back_as_they_were_written(all_questions, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("items") / "prompts.jsonl"
    written = [Item(f"a-{i}", "a dog", "s", "filter", one) for i, one in enumerate(all_questions)]
    write_items(path, written)
    assert load_items(path) == written


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "cannot be read"),
        ([], "has no items; it needs at least one"),
        ([{"id": "a"}], "line 1: missing key prompt"),
        ([{"id": "a", "prompt": "p", "skill": "s", "source": "x", "questions": []}] * 2, "appears twice"),
    ],
)
def test_a_file_that_is_none_is_named(rows: list[dict[str, Any]] | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    if rows is not None:
        write_jsonl(path, rows)
    with pytest.raises(UserError, match=says) as error:
        load_items(path)
    assert str(path) in str(error.value)


def test_items_that_no_one_could_load_are_not_written(tmp_path: Path) -> None:
    question = Question("1", "Is there a dog?", ("yes", "no"), "yes", ("7",), "entity")
    with pytest.raises(UserError, match="unknown parent '7'"):
        write_items(tmp_path / "x.jsonl", [Item("a", "a dog", "s", "filter", (question,))])
    assert not (tmp_path / "x.jsonl").exists()
