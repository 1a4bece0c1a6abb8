"""Asking for lists: parsing what real models send, order under concurrency, replies that survive a kill."""

from __future__ import annotations

import json
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma.errors import UserError
from selma.llm import RecordedProvider, Reply, Request, ThreadedProvider, load_provider, parse_list

# Parsing -----------------------------------------------------------------------------------------

plain = st.text(alphabet="abcdefgh ,", min_size=1, max_size=30).map(lambda text: " ".join(text.split()))
plain = plain.map(lambda text: f"a {text.strip(' ,')}".strip())


@given(
    st.lists(st.tuples(st.integers(0, 9999), st.sampled_from([". ", ") ", ".", ".  "]), plain), max_size=30)
)
def test_items_survive_any_numbers(items):
    text = "\n".join(f"{number}{mark}{item}" for number, mark, item in items)
    assert parse_list(text) == [item for _, _, item in items]
    assert parse_list(text, "length") == [item for _, _, item in items][:-1]


@given(st.text(), st.sampled_from(["stop", "length"]))
def test_anything_parses_into_single_lines_that_say_something(text, finish_reason):
    for item in parse_list(text, finish_reason):
        assert item == " ".join(item.split())
        assert any(char.isalnum() for char in item)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("4. a cat\n6. a dog\n6. a cow\n1. a hen", ["a cat", "a dog", "a cow", "a hen"]),
        ("- a cat\n* a dog\n• a cow", ["a cat", "a dog", "a cow"]),
        ("Sure! Here are 2 prompts:\n\n4. a cat\n5. a dog\n\nLet me know!", ["a cat", "a dog"]),
        ("4. a cat\n5. a dog\nLet me know if you want more.", ["a cat", "a dog"]),
        ("4. a cat\n\n5. a dog\n\n6. a cow", ["a cat", "a dog", "a cow"]),
        ("4. a cat on\n   a mat\n5. a dog\nby a log", ["a cat on a mat", "a dog by a log"]),
        ('4. "a cat"\n5. “a dog”\n6. **a cow**\n7. **"a hen"**', ["a cat", "a dog", "a cow", "a hen"]),
        ("**4.** a cat\n**5. a dog**\n6. *a cow*\n7. `a hen`", ["a cat", "a dog", "a cow", "a hen"]),
        ("4. 'a dog's bone'\n5. the cat's 'bed'", ["a dog's bone", "the cat's 'bed'"]),
        ('4. "one" and "two"', ['"one" and "two"']),
        ('- "a cat",\n- "a dog"', ["a cat", "a dog"]),
        ("```\n4. a cat\n```\nDone", ["a cat"]),
        ("4. a cat\r\n5. a dog\r\n", ["a cat", "a dog"]),
        ("4.\n5. ...\n6. a cat", ["a cat"]),
        ("4. 3.5 metres of rope\n5. 16:9 picture", ["3.5 metres of rope", "16:9 picture"]),
        ("4. a rope of\n3.5 metres", ["a rope of 3.5 metres"]),
        ("I cannot help with that.", []),
        ("", []),
    ],
)
def test_replies_as_models_write_them(text, items):
    assert parse_list(text) == items


@pytest.mark.parametrize(
    "text", ["4. a cat\n5. a do", "4. a cat\n5.", "4. a cat\n5. a dog\n6", "4. a cat\n5. a dog\nby"]
)
def test_a_reply_that_is_cut_off_loses_its_last_item(text):
    assert parse_list(text, "length") == ["a cat"]


# Providers ---------------------------------------------------------------------------------------

REQUESTS = [Request(index, f"text {index}", index * 7, 20) for index in range(8)]


def answer(text: str, seed: int) -> tuple[str, str]:
    return f"1. reply to {text} with {seed}", "stop"


def test_replies_come_in_request_order_though_they_arrive_in_another():
    def later_is_faster(text: str, seed: int) -> tuple[str, str]:
        time.sleep(0.02 * (8 - seed // 7) / 8)
        return answer(text, seed)

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

    def count(text: str, seed: int) -> tuple[str, str]:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.01)
        with lock:
            flying -= 1
        return answer(text, seed)

    ThreadedProvider(count, 3).complete(REQUESTS)
    assert 1 < most <= 3


def test_unknown_provider():
    with pytest.raises(UserError, match=r"llm\.provider is 'gpt'; it must be one of: .*shapes"):
        load_provider("gpt", 1)


def test_recorded_replies_are_not_asked_again(tmp_path):
    asked: list[str] = []

    def dies_at_five(text: str, seed: int) -> tuple[str, str]:
        asked.append(text)
        if text == "text 5":
            raise ConnectionError("gone")
        return answer(text, seed)

    path = tmp_path / "replies.jsonl"
    with pytest.raises(ConnectionError):
        RecordedProvider(ThreadedProvider(dies_at_five, 1), path).complete(REQUESTS)
    saved = {json.loads(line)["index"] for line in path.read_text().splitlines()}
    assert saved and 5 not in saved
    with path.open("a") as file:
        file.write('{"index": 5, "seed": 35, "requ')  # killed while it wrote

    def again(text: str, seed: int) -> tuple[str, str]:
        assert int(text.split()[1]) not in saved
        return answer(text, seed)

    seen: list[Reply] = []
    recorded = RecordedProvider(ThreadedProvider(again, 2), path)
    replies = recorded.complete(REQUESTS, seen.append)
    assert replies == ThreadedProvider(answer, 1).complete(REQUESTS)
    assert {reply.index for reply in seen} == set(range(8))
    assert [row["index"] for row in recorded.rows] == list(range(8))
    assert RecordedProvider(ThreadedProvider(dies_at_five, 1), path).rows == recorded.rows


def test_a_recorded_reply_to_another_request_does_not_count(tmp_path):
    path = tmp_path / "replies.jsonl"
    RecordedProvider(ThreadedProvider(answer, 1), path).complete(REQUESTS[:1])
    changed = Request(0, "another text", 0, 20)
    [reply] = RecordedProvider(ThreadedProvider(answer, 1), path).complete([changed])
    assert "another text" in reply.text
