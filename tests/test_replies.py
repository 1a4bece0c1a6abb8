"""Reading prompts out of what real models send: lists and JSON, whole, cut off, broken or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma.prompts.replies import parse_list, parse_reply

plain = st.text(alphabet="abcdefgh ,", min_size=1, max_size=30).map(lambda text: " ".join(text.split()))
plain = plain.map(lambda text: f"a {text.strip(' ,')}".strip())
# Also what JSON escapes, or what looks like its syntax.
spiky = st.text(alphabet='ab"\\,]}[{é☃\U0001f600', max_size=12).map(lambda text: f"a{text}b")

# Lists -------------------------------------------------------------------------------------------


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


# JSON --------------------------------------------------------------------------------------------


def as_json(items: list[str], indent: int | None) -> str:
    return json.dumps({"prompts": items}, indent=indent, ensure_ascii=False)


@given(st.lists(plain, max_size=12), st.sampled_from([None, 2]), st.sampled_from(["stop", "length"]))
def test_json_gives_every_item(items, indent, finish_reason):
    text = as_json(items, indent)
    for reply in (text, f"Sure!\n```json\n{text}\n```\nEnjoy!", f"Here they are: {text}", f"```\n{text}"):
        assert parse_reply(reply, finish_reason) == items
    if items:
        assert parse_reply(json.dumps(items), finish_reason) == items


@given(st.lists(spiky, min_size=1, max_size=6), st.sampled_from([None, 2]), st.data())
def test_json_cut_anywhere_gives_whole_items_only(items, indent, data):
    text = as_json(items, indent)
    whole = parse_reply(text)
    end = data.draw(st.integers(0, len(text)))
    cut = parse_reply(text[:end], "length")
    assert cut == whole[: len(cut)]
    closed = [json.dumps(item, ensure_ascii=False) for item in items]
    if end >= text.rindex(closed[-1]) + len(closed[-1]):
        assert cut == whole


@given(st.text(alphabet='[]{}",:\\ \n1a.-<think>/'), st.sampled_from(["stop", "length"]))
def test_anything_like_json_parses_into_single_lines(text, finish_reason):
    for item in parse_reply(text, finish_reason):
        assert item == " ".join(item.split())


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('["a cat", "a dog"]', ["a cat", "a dog"]),
        ('{"images": ["a cat", "a dog"], "note": "Enjoy!"}', ["a cat", "a dog"]),
        ('{"prompts": [{"prompt": "a cat"}, {"prompt": "a dog"}]}', ["a cat", "a dog"]),
        ('{"4": "a cat", "5": "a dog"}', ["a cat", "a dog"]),
        ('{"prompts": ["4. a cat", "5. a dog"]}', ["a cat", "a dog"]),
        ('{"prompts": ["4. a cat", "a dog in 1950. Rain"]}', ["4. a cat", "a dog in 1950. Rain"]),
        ('{"prompts": ["a cat\n on a mat", " a dog ", "", "...", null, 7]}', ["a cat on a mat", "a dog"]),
        ('{"prompts": ["a cat", "a "big" dog", "a cow"]}', ["a cat"]),  # where it breaks, nothing is guessed
        ('{"prompts": ["a cat", "a dog",]}', ["a cat", "a dog"]),
        ('{"prompts": []}', []),
        ("[4] a cat\n5. a dog", ["a dog"]),
        ("[" * 100_000, []),
        ('{"a":' * 100_000, []),
        ("<think>1. maybe a cow\n2. no</think>\n4. a cat", ["a cat"]),
        ("1. maybe a cow\n</think>\n4. a cat", ["a cat"]),
        ("<think>1. maybe a cow\n2. or", []),
        ("I'm sorry, but I can't help with that.", []),
    ],
)
def test_json_as_models_write_it(text, items):
    assert parse_reply(text) == items


@pytest.mark.parametrize("finish_reason", ["length", "content_filter", "max_tokens", "abort"])
def test_every_word_for_cut_off_drops_the_last_item(finish_reason):
    assert parse_reply("4. a cat\n5. a do", finish_reason) == ["a cat"]


@given(st.lists(plain, max_size=12), st.sampled_from(["stop", "length"]))
def test_lists_are_read_as_ever(items, finish_reason):
    text = "\n".join(f"{number}. {item}" for number, item in enumerate(items, start=4))
    assert parse_reply(text, finish_reason) == parse_list(text, finish_reason)
