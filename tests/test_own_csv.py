"""A benchmark of one's own as a plain CSV file, read by the stage as a user would have it read."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from selma.ground.errors import UserError
from selma.ground.items import Item, Question, load_split, splits
from selma.variants.benchmarks import csv as ours

ROOT = Path(__file__).parents[1]
HEAD = "prompt,question,answer,category,parents\n"
TABLE = HEAD + (
    "two red circles,Is there a circle?,yes,shape,\n"
    "two red circles,Are the circles red?,YES,colour,1\n"
    '"a blue, round ball",Is there a ball?,yes,,\n'
    "two red circles,Is there a square?,no,shape,\n"
    "two red circles,Are there two red circles?,yes,count,1;2\n"
)


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[bytes | str], subprocess.CompletedProcess[str]]:
    """Run `python -m stages.own_benchmark mine` on a file of these contents, as DVC does."""
    root, mine = tmp_path / "project", tmp_path / "mine.csv"
    root.mkdir()
    for name in ("selma", "stages", "dvc.yaml"):
        (root / name).symlink_to(ROOT / name)
    yaml = YAML()
    settings = yaml.load(ROOT / "params.yaml")
    settings["own"]["benchmarks"]["mine"] = {"source": "csv", "path": str(mine)}
    settings["evaluate"]["benchmarks"] = ["mine"]
    settings["select"]["policy"] = "last"
    yaml.dump(settings, root / "params.yaml")

    def run(contents: bytes | str) -> subprocess.CompletedProcess[str]:
        mine.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        command = [sys.executable, "-m", "stages.own_benchmark", "mine"]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    run.folder, run.file = root / "data/benchmarks/mine", mine
    return run


def read(path: Path, contents: bytes | str) -> list[Item]:
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return ours.read({"questions": path})


def test_a_users_table_becomes_a_test_split(stage):
    done = stage(TABLE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "data/benchmarks/mine: 2 prompts, 5 questions\n"
    assert splits(stage.folder) == ["test"]
    first, second = load_split(stage.folder, "test")
    assert (first.prompt, second.prompt) == ("two red circles", "a blue, round ball")
    assert [(q.id, q.text, q.answer, q.category, q.parents) for q in first.questions] == [
        ("1", "Is there a circle?", "yes", "shape", ()),
        ("2", "Are the circles red?", "yes", "colour", ("1",)),
        ("3", "Is there a square?", "no", "shape", ()),
        ("4", "Are there two red circles?", "yes", "count", ("1", "2")),
    ]
    assert {q.choices for q in (*first.questions, *second.questions)} == {("yes", "no")}
    assert (stage.folder / "questions.csv").read_bytes() == stage.file.read_bytes()


def test_a_broken_table_is_one_line_and_leaves_what_was_there(stage):
    assert stage(TABLE).returncode == 0
    before = (stage.folder / "test.jsonl").read_bytes()
    done = stage(TABLE.replace(",no,", ",maybe,"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(
        f"{stage.file}, line 5: answer is 'maybe'; it must be one of: yes, no; "
        "a column `choices` may list other answers (red; blue)"
    )
    assert "Traceback" not in done.stderr
    assert (stage.folder / "test.jsonl").read_bytes() == before


def test_another_row_leaves_the_ids_of_other_prompts(tmp_path):
    before = read(tmp_path / "a.csv", TABLE)
    after = read(tmp_path / "a.csv", TABLE.replace(HEAD, f"{HEAD}a cross,Is there a cross?,yes,,\n"))
    assert [item.id for item in after[1:]] == [item.id for item in before]


@pytest.mark.parametrize(
    "written",
    [
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\r").encode(),
        TABLE.rstrip("\n").encode(),
        TABLE.replace("\n", "\n\n,,,,\n").encode(),
        TABLE.replace("1;2", '" 1, 2 "').encode(),
        TABLE.replace("prompt,", " prompt ,").encode(),
    ],
    ids=["mark", "windows", "old mac", "no last line end", "blank lines", "commas", "spaces"],
)
def test_what_editors_write_makes_no_difference(tmp_path, written):
    assert read(tmp_path / "a.csv", written) == read(tmp_path / "b.csv", TABLE)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_spreadsheets_separators_are_read(tmp_path, separator):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\r\n").writerows(
        csv.reader(TABLE.splitlines())
    )  # as Excel does where commas mark decimals
    assert ('"1;2"' in text.getvalue()) == (separator == ";")
    assert read(tmp_path / "a.csv", text.getvalue()) == read(tmp_path / "b.csv", TABLE)


def test_a_question_of_many_choices(tmp_path):
    text = "prompt,question,answer,choices\na red ball,Which colour?,Red,blue; red; green\na red ball,A ball?,yes,\n"
    (item,) = read(tmp_path / "a.csv", text)
    assert [(q.choices, q.answer) for q in item.questions] == [
        (("blue", "red", "green"), "red"),
        (("yes", "no"), "yes"),
    ]


NEEDED = "needed: prompt, question, answer; allowed, too: category, parents, choices"
QUOTED = '; a cell that holds a separator, a quote or a line end stands in double quotes: "a red, round ball"'
FILLED = "every row needs prompt, question, answer"
RANGE = (
    'it must be numbers of this prompt\'s questions, 1 to 2, with semicolons between them ("1; 2"), or empty'
)
ROW = "a,b?,yes,,\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f", line 1: has no column prompt, question, answer; {NEEDED}"),
        ("prompt,question\na,b\n", f", line 1: has no column answer; {NEEDED}"),
        ("prompt,question,answers\n", f", line 1: unknown column 'answers'; {NEEDED}"),
        ("prompt,question,answer,\na,b,yes,\n", f", line 1: unknown column ''; {NEEDED}"),
        ("prompt,question,answer,answer\n", ", line 1: has the column answer twice"),
        (HEAD, ": holds no questions; a header and at least one row are needed"),
        (HEAD + ROW + "a,b?,yes\n", f", line 3: has 3 cells, the header has 5{QUOTED}"),
        (HEAD + ROW + " ,c?,yes,,\n", f", line 3: prompt is empty; {FILLED}"),
        (HEAD + ROW + "a,,yes,,\n", f", line 3: question is empty; {FILLED}"),
        (HEAD + ROW + "a,c?,,,\n", f", line 3: answer is empty; {FILLED}"),
        (HEAD + ROW + "a,c?,yes,,x\n", f", line 3: parents is 'x'; {RANGE}"),
        (HEAD + ROW + "a,c?,yes,,3\n", f", line 3: parents is '3'; {RANGE}"),
        (HEAD + ROW + "a,c?,yes,,0\n", f", line 3: parents is '0'; {RANGE}"),
        (HEAD + ROW + "a,c?,yes,,1;\n", f", line 3: parents is '1;'; {RANGE}"),
        (HEAD + ROW + "z,y?,yes,,\na,c?,yes,,-1\n", f", line 4: parents is '-1'; {RANGE}"),
        (
            HEAD + ROW + "a,c?,yes,,2\n",
            ", line 3: parents go in a circle (2 needs 2); a question must not wait for itself",
        ),
        (
            HEAD + "a,b?,yes,,2\na,c?,yes,,1\n",
            ", line 2: parents go in a circle (1 needs 2 needs 1); a question must not wait for itself",
        ),
        (
            HEAD + ROW + "z,b?,yes,,\na, B?,no,,\n",
            ", line 4: question 'B?' is in line 2 already; a prompt asks each question once",
        ),
        (
            "prompt,question,answer,choices\na,b?,red,red\n",
            ", line 2: choices is 'red'; it must list two different answers or more, with semicolons between them: "
            "red; blue",
        ),
        (
            "prompt,question,answer,choices\na,b?,cat,red; blue\n",
            ", line 2: answer is 'cat'; it must be one of: red, blue",
        ),
        (
            HEAD + '"two\nlines",b?,yes,,\n"a,b?,yes,,\n',
            f", line 4: is not valid CSV (unexpected end of data){QUOTED}",
        ),
        (
            HEAD.encode() + ROW.encode() + "ä,b?,yes,,\n".encode("cp1252"),
            ", line 3: is not UTF-8 text; save the table as `CSV UTF-8` (.csv, no workbook)",
        ),
        (HEAD + "a\0,b?,yes,,\n", ", line 2: holds a null character"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_line(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        read(tmp_path / "mine.csv", text)
    assert str(error.value) == f"{tmp_path}/mine.csv{said}"


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError) as error:
        ours.read({"questions": tmp_path / "mine.csv"})
    assert str(error.value) == f"{tmp_path}/mine.csv: cannot be read (No such file or directory)"


# Whatever a cell may hold: quotes, separators, line ends, other scripts.
CELL = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
).map(str.strip)
TEXT = CELL.filter(bool)
CHOICE = TEXT.filter(lambda text: ";" not in text)


@st.composite
def items(draw: st.DrawFn) -> list[Item]:
    made = []
    for prompt in draw(st.lists(TEXT, min_size=1, max_size=3, unique=True)):
        plain = st.lists(
            TEXT, min_size=1, max_size=4, unique_by=lambda text: " ".join(text.casefold().split())
        )
        questions = []
        for number, text in enumerate(draw(plain), start=1):
            choices = ("yes", "no")
            if draw(st.booleans()):
                choices = tuple(draw(st.lists(CHOICE, min_size=2, max_size=3, unique_by=str.casefold)))
            before = [str(i) for i in range(1, number)]
            parents = tuple(draw(st.lists(st.sampled_from(before), unique=True)) if before else ())
            category = draw(CELL) or "question"
            answer = draw(st.sampled_from(choices))
            questions.append(Question(str(number), text, choices, answer, parents, category))
        id = hashlib.sha256(prompt.encode()).hexdigest()[:12]
        made.append(Item(f"csv-{id}", prompt, "csv", "csv", tuple(questions)))
    return made


@given(made=items(), separator=st.sampled_from(",;\t"), end=st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read_back(tmp_path_factory, made, separator, end):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["prompt", "question", "answer", "category", "parents", "choices"])
    for item in made:
        for q in item.questions:
            choices = "" if q.choices == ("yes", "no") else "; ".join(q.choices)
            writer.writerow([item.prompt, q.text, q.answer, q.category, "; ".join(q.parents), choices])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    assert read(path, text.getvalue()) == made
