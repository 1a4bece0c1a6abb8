"""Asking for lists: order under concurrency, and replies that survive a kill."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma.ground.errors import UserError
from selma.ground.files import read_jsonl, write_jsonl
from selma.prompts.answers import read_answer
from selma.prompts.collecting import cost
from selma.prompts.provider import Reply, Request, ThreadedProvider
from selma.prompts.store import RecordedProvider, keep_replies, writable

REQUESTS = [Request(index, f"text {index}", index * 7, 20) for index in range(8)]


def answer(request: Request) -> Reply:
    return Reply(request.index, f"1. reply to {request.text} with {request.seed}", "stop")


def test_replies_come_in_request_order_though_they_arrive_in_another():
    def later_is_faster(request: Request) -> Reply:
        time.sleep(0.02 * (8 - request.index) / 8)
        return answer(request)

    arrived: list[int] = []
    replies = ThreadedProvider(later_is_faster, 8).complete(
        REQUESTS, lambda reply: arrived.append(reply.index)
    )
    assert replies == ThreadedProvider(answer, 1).complete(REQUESTS)
    assert [reply.index for reply in replies] == list(range(8))
    assert sorted(arrived) == list(range(8))
    assert arrived != sorted(arrived)


def test_no_more_requests_in_flight_than_allowed():
    flying, most, lock = 0, 0, threading.Lock()

    def count(request: Request) -> Reply:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.01)
        with lock:
            flying -= 1
        return answer(request)

    ThreadedProvider(count, 3).complete(REQUESTS)
    assert 1 < most <= 3


def test_recorded_replies_are_not_asked_again(tmp_path):
    asked: list[str] = []

    def dies_at_five(request: Request) -> Reply:
        asked.append(request.text)
        if request.index == 5:
            raise ConnectionError("gone")
        return answer(request)

    path = tmp_path / "replies.jsonl"
    with pytest.raises(ConnectionError):
        RecordedProvider(ThreadedProvider(dies_at_five, 1), path).complete(REQUESTS)
    saved = {json.loads(line)["index"] for line in path.read_text().splitlines()}
    assert saved and 5 not in saved
    with path.open("a") as file:
        file.write('{"index": 5, "seed": 35, "requ')  # killed while it wrote

    def again(request: Request) -> Reply:
        assert request.index not in saved
        return answer(request)

    seen: list[Reply] = []
    recorded = RecordedProvider(ThreadedProvider(again, 2), path)
    replies = recorded.complete(REQUESTS, seen.append)
    assert replies == ThreadedProvider(answer, 1).complete(REQUESTS)
    assert {reply.index for reply in seen} == set(range(8))
    assert [row["index"] for row in recorded.rows] == list(range(8))
    assert recorded.reused == len(saved)
    resumed = RecordedProvider(ThreadedProvider(dies_at_five, 1), path)
    assert resumed.complete(REQUESTS) == replies
    assert (resumed.rows, resumed.reused) == (recorded.rows, 8)


def test_a_recorded_reply_to_another_request_does_not_count(tmp_path):
    path = tmp_path / "replies.jsonl"
    RecordedProvider(ThreadedProvider(answer, 1), path).complete(REQUESTS[:1])
    changed = Request(0, "another text", 0, 20)
    [reply] = RecordedProvider(ThreadedProvider(answer, 1), path).complete([changed])
    assert "another text" in reply.text


def test_a_failure_loses_no_reply_that_is_on_its_way():
    """Replies in flight are paid for: they are waited for and handed over before the failure is raised."""
    begun = threading.Barrier(4)

    def one_fails(request: Request) -> Reply:
        if request.index < 4:
            begun.wait(10)
        if request.index == 0:
            raise ConnectionError("gone")
        time.sleep(0.05)
        return answer(request)

    handed: list[int] = []
    with pytest.raises(ConnectionError):
        ThreadedProvider(one_fails, 4).complete(REQUESTS, lambda reply: handed.append(reply.index))
    assert sorted(handed) == [1, 2, 3]


def test_one_file_serves_many_settings(tmp_path, monkeypatch):
    """A reply is another's under another model, index or seed, and is found again when that one returns."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))

    def ask(model: str, requests: list[Request], answer=answer) -> RecordedProvider:
        recorded = keep_replies(ThreadedProvider(answer, 2, {"model": model}), "count", tmp_path / "work")
        recorded.complete(requests)
        return recorded

    def silent(request: Request) -> Reply:
        raise AssertionError("asked again")

    first = ask("a", REQUESTS)
    assert first.reused == 0
    assert ask("b", REQUESTS).reused == 0
    assert ask("a", [Request(0, "text 0", 1, 20)]).reused == 0
    again = ask("a", REQUESTS, silent)
    assert (again.reused, again.rows) == (8, first.rows)
    assert sorted(path.name for path in tmp_path.rglob("*.jsonl")) == ["count.jsonl"]


def test_replies_of_this_repositorys_own_code_stay_in_the_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    keep_replies(ThreadedProvider(answer, 2), "count", tmp_path).complete(REQUESTS)
    assert [path.name for path in tmp_path.iterdir()] == ["replies.jsonl"]


# What servers say and what is on file ------------------------------------------------------------

DEEP: list = []
for _ in range(900):
    DEEP = [DEEP]
ODD = [
    "half \ud83d",
    "\x00\x1b a",
    [],
    {},
    True,
    -1,
    2**70,
    float("nan"),
    float("inf"),
    DEEP,
    {"\udc00": "\ud83d"},
]


@pytest.mark.parametrize("odd", ODD, ids=[str(number) for number in range(len(ODD))])
def test_whatever_a_server_says_of_a_reply_can_be_kept_and_read_again(tmp_path, odd):
    def says(request: Request) -> Reply:
        text = f"1. {odd}" if isinstance(odd, str) else "1. a cat"
        return Reply(request.index, text, "stop", {"id": odd, "model": odd, "usage": {"prompt_tokens": odd}})

    first = RecordedProvider(ThreadedProvider(says, 2), tmp_path / "replies.jsonl")
    replies = first.complete(REQUESTS)
    write_jsonl(tmp_path / "raw.jsonl", first.rows)
    assert read_jsonl(tmp_path / "raw.jsonl") == first.rows
    assert cost(first.rows, 1.0, 1.0) == {"requests": 8, "empty": 0}
    again = RecordedProvider(ThreadedProvider(fails, 2), tmp_path / "replies.jsonl")
    assert (again.complete(REQUESTS), again.rows) == (replies, first.rows)


def fails(request: Request) -> Reply:
    raise AssertionError("asked again")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_like)
def test_what_is_written_is_json_in_utf_8(value):
    kept = writable(value)
    assert json.loads(json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()) == kept
    assert writable(kept) == kept


def test_two_halves_are_a_whole_character():
    assert writable("\ud83d\ude00") == "😀"


JUNK = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe",
    b"[" * 5000 + b"]" * 5000,
    b"9" * 5000,
    b'{"key": "%(key)s"}',
    b'{"key": ["%(key)s"], "index": 0, "reply": "1. a cow", "finish_reason": "stop"}',
    b'{"key": "%(key)s", "index": 0, "reply": null, "finish_reason": "stop"}',
    b'{"key": "%(key)s", "index": true, "reply": "1. a cow", "finish_reason": "stop"}',
    b'{"key": "%(key)s", "index": 7, "reply": "1. a cow", "finish_reason": "stop"}',
    b'{"key": "%(key)s", "index": 0, "reply": "1. a cow", "finish_reason": {}}',
    b'{"key": "%(key)s", "index": "0", "reply": {"a": 1}, "finish_reason": 3}',
]


@pytest.mark.parametrize("junk", JUNK)
def test_a_line_that_is_no_reply_is_as_if_it_were_not_there(tmp_path, junk):
    path = tmp_path / "replies.jsonl"
    first = RecordedProvider(ThreadedProvider(answer, 1), path)
    replies = first.complete(REQUESTS)
    lines = path.read_bytes().splitlines()
    key = json.loads(lines[0])["key"].encode()
    path.write_bytes(b"\n".join([junk.replace(b"%(key)s", key), *lines[1:], junk.replace(b"%(key)s", key)]))
    again = RecordedProvider(ThreadedProvider(answer, 1), path)
    assert (again.complete(REQUESTS), again.reused) == (replies, 7)
    assert again.rows == first.rows


@pytest.mark.parametrize("place", ["a folder", "below a file", "not writable"])
def test_a_store_that_cannot_be_written_is_said_before_anything_is_asked(tmp_path, place):
    path = tmp_path / "llm" / "count.jsonl"
    if place == "a folder":
        path.mkdir(parents=True)
    elif place == "below a file":
        path.parent.write_text("a file")
    else:
        path = Path(
            "/proc/self/llm/count.jsonl"
        )  # forbidden to root, too; elsewhere than on Linux, to others
    with pytest.raises(
        UserError, match=r"count\.jsonl: replies cannot be kept there \(.+\); nothing was asked"
    ):
        RecordedProvider(ThreadedProvider(fails, 1), path)


def test_when_the_disk_is_full_replies_in_flight_are_kept_if_they_can_be(tmp_path, monkeypatch):
    begun, tried = threading.Barrier(4), []

    def together(request: Request) -> Reply:
        begun.wait(10)  # nothing beyond the first four is ever asked
        return answer(request)

    def full_once(descriptor: int) -> None:
        tried.append(descriptor)
        if len(tried) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "replies.jsonl"
    recorded = RecordedProvider(ThreadedProvider(together, 4), path)
    monkeypatch.setattr("selma.prompts.store.os.fsync", full_once)
    with pytest.raises(
        UserError, match=r"replies\.jsonl: a reply cannot be kept \(No space left on device\)"
    ):
        recorded.complete(REQUESTS[:4])
    assert len(tried) == 4
    monkeypatch.undo()
    assert {row["index"] for row in read_jsonl(path)} == {0, 1, 2, 3}


@pytest.mark.parametrize("written", [1, 10])
def test_a_line_that_was_written_in_part_is_finished_or_an_error(tmp_path: Path, monkeypatch, written):
    """On a disk that is nearly full a write ends early, without an error."""
    path = tmp_path / "replies.jsonl"
    recorded = RecordedProvider(ThreadedProvider(answer, 1), path)
    builtin, short = open, [written]

    def nearly_full(*arguments, **more):
        file = builtin(*arguments, **more)
        if more.get("buffering") != 0:
            return file

        class Short:
            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def write(self, data):
                return file.write(data[: short.pop()] if short else data)

        return Short()

    monkeypatch.setitem(RecordedProvider._append.__globals__, "open", nearly_full)
    recorded.complete(REQUESTS[:2])
    assert RecordedProvider(ThreadedProvider(fails, 1), path).complete(REQUESTS[:2])


USAGES = [
    [], "many", 7, {}, None, {"prompt_tokens": True}, {"prompt_tokens": -1}, {"prompt_tokens": 1.5},
    {"prompt_tokens": "9"}, {"prompt_tokens": 10**18}, {"prompt_tokens": {"text": 1}}, {"input_tokens": 5},
]  # fmt: skip


@pytest.mark.parametrize("usage", USAGES, ids=str)
def test_token_counts_of_another_shape_are_left_out(usage):
    rows = [
        {"reply": "1. a cat", "finish_reason": "stop", "usage": {"prompt_tokens": 2, "completion_tokens": 3}},
        {"reply": "", "finish_reason": "length", "usage": usage},
    ]
    assert cost(rows, 1.0, 1.0) == {"requests": 2, "empty": 1}
    assert cost(rows[:1], 1e6, 1e6)["estimated_cost"] == 5


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("1. a cat", "1. a cat"),
        (None, ""),
        (7, ""),
        ({"text": "1. a cat"}, ""),
        ([{"type": "text", "text": "1. a"}, {"type": "text", "text": " cat"}], "1. a cat"),
        ([{"type": "output_text", "text": "1. a cat"}], "1. a cat"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}, {"type": "text", "text": "1. a cat"}],
         "1. a cat"),
        ([{"type": "reasoning", "text": "1. no"}, {"type": "text", "text": "1. a cat"}], "1. a cat"),
        (["1. a ", {"text": "cat"}, {"type": "image_url", "image_url": {}}], "1. a cat"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reasoning", ["reasoning_content", "reasoning", "thinking"])
def test_a_message_is_read_without_its_reasoning(content, text, reasoning):
    message = {"content": content, reasoning: "1. Pick colours\n2. Repeat nothing"}
    reply = read_answer(json.dumps({"choices": [{"message": message, "finish_reason": None}]}), 3)
    assert (reply.index, reply.text, reply.finish_reason) == (3, text, "stop")
    assert reply.details == ({} if text else {"reasoning_only": True})
