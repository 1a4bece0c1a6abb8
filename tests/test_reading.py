"""Files that people and remotes bring: whatever is wrong with one is a single line of bounded length."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NotRequired

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from selma.ground.errors import LONGEST, UserError, first_line
from selma.ground.files import read_csv, read_json, read_jsonl, read_record, read_rows
from selma.ground.pairs import read_pairs, read_prompts
from selma.ground.schema import Id, Index, record
from selma.runtime.params import build_params, load_params
from selma.runtime.schema import parse_yaml

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@record
class Row(TypedDict):
    id: Id
    k: Index
    share: NotRequired[float]


def refusal(read, *arguments) -> str:
    """What is said of bad input: one line that a terminal can show."""
    with pytest.raises(UserError) as error:
        read(*arguments)
    said = str(error.value)
    assert said.isprintable() and len(said) <= LONGEST + 10
    return said


# Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "line"),
    [("", "ValueError"), ("\n\n", "ValueError"), ("\n two\nthree", "two"), ("one", "one")],
)
def test_the_first_line_of_an_error_is_never_empty(said: str, line: str) -> None:
    assert first_line(ValueError(said)) == line


def test_a_message_is_one_line_and_short_whatever_it_quotes() -> None:
    assert str(UserError("a\n  b\x1b[31m \ud800")) == "a b\\x1b[31m \\ud800"
    long = str(UserError("start " + "x" * 10**6 + " end"))
    assert len(long) < LONGEST + 10 and long.startswith("start ") and long.endswith(" end")


# JSON ------------------------------------------------------------------------------------------

ODD_JSON = [
    "",
    "{",
    "\0",
    "[" * 100_000,
    '{"a":' * 1000 + "1" + "}" * 1000,
    '{"a": ' + "1" * 5000 + "}",
    '{"a": NaN}',
    '{"a": -Infinity}',
    '{"a": 1e999}',
    '{"a": "\\ud83d"}',
    '{"a": "half \\udc00"}',
    '{"a": "\0"}',
    '{"a": 1, "a": 2}',
    "{'a': 1}",
    '{"a": 1} {"b": 2}',
]


@pytest.mark.parametrize("text", ODD_JSON)
def test_odd_json_is_named_with_its_file_and_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert refusal(read_json, path).startswith(f"{path}")
    path.write_text('\n{"fine": 1}\n' + (text or "{") + "\n")
    assert refusal(read_jsonl, path).startswith(f"{path}, line 3: is not valid JSON (")


@pytest.mark.parametrize("contents", [b"\xff\xfe{\0}\0", b"\x80"])
def test_what_is_no_utf8_is_named(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(contents)
    for read in (read_json, read_jsonl):
        assert refusal(read, tmp_path / "x").endswith("is not UTF-8 text")
    assert refusal(read_csv, tmp_path / "x", ("a",)).endswith("is not UTF-8 text")


def test_a_byte_order_mark_and_blank_lines_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n')
    assert read_json(tmp_path / "x") == {"a": 1} and read_jsonl(tmp_path / "x") == [{"a": 1}]


def test_a_folder_and_a_name_that_is_too_long_are_named(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(read_json, tmp_path)
    assert "cannot be read" in refusal(read_json, tmp_path / ("x" * 300))
    assert "cannot be read" in refusal(read_json, tmp_path / "x\0")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@quick
@given(value=json_values)
def test_any_row_is_read_or_refused_in_one_line(value: object, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps(value))
    for row in (value, {"id": value, "k": 1}, {"id": "a", "k": value}, {"id": "a", "k": 0, "share": value}):
        path.write_text(json.dumps(row))
        try:
            (found,) = read_rows(path, Row)
            assert found == row
        except UserError as error:
            assert str(error).isprintable() and str(error).startswith(f"{path}")


@quick
@given(text=st.text(max_size=30) | st.text('{}[],:"\\u0dD8-1e.NaInfty ', max_size=30))
def test_any_text_is_read_or_refused_in_one_line(text: str, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_json, read_jsonl, lambda path: read_csv(path, ("a",))):
        try:
            read(path)
        except UserError as error:
            assert str(error).isprintable()


def test_a_row_is_checked_once_and_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a", "k": 0, "more": 1}\n\n{"id": "b", "k": 0}\n')
    assert read_rows(path, Row, once=["id"]) == [{"id": "a", "k": 0, "more": 1}, {"id": "b", "k": 0}]
    path.write_text('{"id": "a", "k": 0}\n\n{"id": "a", "k": 1}\n')
    assert "line 3: id 'a' is in line 1 already" in refusal(lambda: read_rows(path, Row, once=["id"]))
    assert len(read_rows(path, Row, once=["id", "k"])) == 2
    path.write_text('{"id": "a"}\n')
    assert "line 1: missing key k; the row needs id, k" in refusal(read_rows, path, Row)
    path.write_text("[1]")
    assert "x.jsonl: the file is [1]; it must be a mapping of id, k" in refusal(read_record, path, Row)


# Ids and file names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id",
    [
        "../up",
        "/abs",
        "a/b",
        "a\\b",
        "..",
        ".",
        ".hidden",
        "-rf",
        "",
        " ",
        "a b",
        "a\n",
        "é",
        "x" * 200,
        "a\0",
        3,
        None,
    ],
)
def test_an_id_is_never_a_path(id: object, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"id": "fine", "text": "a"}) + "\n" + json.dumps({"id": id, "text": "b"}))
    said = refusal(read_prompts, path)
    assert said.startswith(f"{path}, line 2: id is ") and "; it must be" in said


def test_the_same_id_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}\n')
    assert "line 2: id 'a' is in line 1 already" in refusal(read_prompts, path)


@pytest.mark.parametrize(
    "name",
    [
        "../x.png",
        "/etc/passwd",
        "a/../../x.png",
        "a//x.png",
        "..\\x.png",
        "C:\\x.png",
        "",
        ".",
        "a\0.png",
        "x" * 300,
        "a\n.png",
    ],
)
def test_an_image_is_never_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    row = {"file_name": name, "text": "t", "id": "a", "seed": 1}
    (tmp_path / "in").mkdir()
    (tmp_path / "in/metadata.jsonl").write_text(json.dumps(row))
    said = refusal(read_pairs, tmp_path / "in")
    assert "metadata.jsonl, line 1: file_name is" in said and "it must be a path inside its folder" in said


@pytest.mark.parametrize(
    ("key", "value"), [("k", -1), ("k", None), ("k", True), ("k", 0.5), ("seed", -1), ("seed", "1")]
)
def test_numbers_of_images_are_numbers(key: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    row = {"file_name": "x.png", "text": "t", "id": "a", "seed": 1, key: value}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert f"line 1: {key} is {value!r}; it must be" in refusal(read_pairs, tmp_path)


def test_two_images_are_never_one_of_an_id(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "text": "t", "id": "a", "seed": 1, "note": "mine"} for n in (1, 2)]
    for row in rows:
        (tmp_path / row["file_name"]).touch()
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "has id 'a' and k 0, as" in refusal(read_pairs, tmp_path)
    (tmp_path / "metadata.jsonl").write_text(json.dumps(rows[0]))
    assert read_pairs(tmp_path)[0].id == "a"


# YAML ------------------------------------------------------------------------------------------


def bomb(inner: str) -> str:
    """Aliases of aliases: nine levels of nine each."""
    return "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} {inner.format(', '.join([f'*{before}'] * 9))}\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )


ODD_YAML = [
    bomb("[{}]"),
    bomb("{{<<: [{}]}}").replace("[x, x]", "{k: 1}"),
    "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 900)),
    "a: &a [*a]",
    "a: &a {<<: *a}",
    "a: " + "[" * 3000 + "]" * 3000,
    "a: " + "1" * 5000,
    "a: 0x" + "f" * 100_000,
    'a: "\\ud800"',
    "a: !!binary aGk=",
    "a: !!set {x, y}",
    "a: !!omap [x: 1]",
    "a: !mine 1",
    "a: !!python/object/apply:os.system [x]",
    "a: !!int x",
    "a: !!bool x",
    "a: !!map 3",
    "a: 1\na: " + "x" * 100_000,
    "a: \0",
    "--- 1\n--- 2",
]


@pytest.mark.parametrize("text", ODD_YAML)
def test_odd_yaml_is_one_line_at_once(text: str) -> None:
    start = time.monotonic()
    assert refusal(parse_yaml, text, "p.yaml").startswith("p.yaml")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "text",
    [
        "profile: [[" + "x, " * 1000 + "]]",
        f"{{{'x' * 1000}: 1, {'y' * 1000}: 2}}",
        "seed: " + "x" * 100_000,
        "1: 2",
        "? [1, 2]\n: 3",
        "~: 1",
        "a: .inf",
    ],
)
def test_odd_contents_are_one_line(text: str) -> None:
    assert refusal(lambda: build_params(parse_yaml(text, "p.yaml"), "p.yaml")).startswith("p.yaml: ")


def test_what_yaml_allows_stays_allowed() -> None:
    text = "a: &a {x: 1, when: 2024-01-31}\nb: {<<: *a, y: [*a, *a]}\n"
    a = {"x": 1, "when": "2024-01-31"}
    assert parse_yaml(text, "p.yaml") == {"a": a, "b": {**a, "y": [a, a]}}


def test_only_a_slip_is_suggested(tmp_path: Path) -> None:
    params = Path(__file__).parents[1].joinpath("params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("{kind: oracle}", "{kind: oracle, id: x}"))
    said = refusal(load_params, tmp_path / "params.yaml")
    assert "unknown key judges.oracle.id; it must be one of: kind" in said
    (tmp_path / "params.yaml").write_text(params.replace("{kind: oracle}", "{knid: oracle}"))
    assert "did you mean kind?" in refusal(load_params, tmp_path / "params.yaml")
