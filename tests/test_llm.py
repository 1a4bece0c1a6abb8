"""Asking for lists: order under concurrency, and replies that survive a kill."""

from __future__ import annotations

import json
import threading
import time

import pytest

from selma.prompts.provider import Reply, Request, ThreadedProvider
from selma.prompts.store import RecordedProvider, keep_replies

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
