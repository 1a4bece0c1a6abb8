"""Benchmarks as their authors release them: DSG's quirks, TIFA's questions, HPS v2's prompts; and the stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from selma.ground.errors import UserError
from selma.ground.items import Item, load_split, splits
from selma.runtime.params import load_params
from selma.variants.benchmarks import dsg, hps, tifa
from stages import benchmark, own_benchmark

ROOT = Path(__file__).parents[1]
HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
)


def annotations(path: Path, items: dict[str, list[tuple[str, str]]], end: str = "\n") -> Path:
    """A DSG file: by item, its questions' ids and dependency cells."""
    lines = [
        f'{item},the text of {item},k,{id},"{dependency}",entity,whole,t,Is there {id}?'
        for item, questions in items.items()
        for id, dependency in questions
    ]
    path.write_bytes((HEADER + "\n".join(lines) + "\n").replace("\n", end).encode())
    return path


def parents(item: Item) -> dict[str, tuple[str, ...]]:
    return {question.id: question.parents for question in item.questions}


@pytest.fixture
def read(tmp_path):
    def one(*questions: tuple[str, str], cascading: bool = False):
        found = dsg.read_annotations(annotations(tmp_path / "a.csv", {"tifa160_1": list(questions)}))
        return (dsg.cascading_items if cascading else dsg.items)(found)[0]

    return one


# DSG -------------------------------------------------------------------------------------------


def test_a_dsg_item_is_its_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        HEADER + 'stanford_paragraph_54,"A tall, ""red"" barn.",k,1,0,global,-,t,Is this a photo?\n'
        'stanford_paragraph_54,"A tall, ""red"" barn.",k,2,1,attribute,color,t,Is the barn red?\n'
    )
    (item,) = dsg.items(dsg.read_annotations(path))
    assert (item.id, item.prompt) == ("stanford_paragraph_54", 'A tall, "red" barn.')
    assert item.source == item.skill == "stanford_paragraph"
    assert [(q.id, q.category, q.parents, q.choices, q.answer) for q in item.questions] == [
        ("1", "global", (), ("yes", "no"), "yes"),
        ("2", "color", ("1",), ("yes", "no"), "yes"),
    ]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("0", ()),
        ("1", ("1",)),
        ("1,2", ("1", "2")),
        (" 1, 2 ", ("1", "2")),
        ("0,1", ("1",)),  # none, beside one
        ("1,1", ("1",)),
        ("3", ("3",)),  # itself
        ("4,3", ("4", "3")),  # a later one
    ],
)
def test_dependencies_are_direct_parents(read, cell, found):
    assert parents(read(("1", "0"), ("2", "0"), ("3", cell), ("4", "3"))) == {
        "1": (),
        "2": (),
        "3": found,
        "4": ("3",),
    }


def test_a_malformed_dependency_takes_all_of_the_items_from_it_and_from_no_other(tmp_path):
    path = annotations(
        tmp_path / "a.csv",
        {"a_1": [("1", "0"), ("2", "1"), ("3", "2, right")], "a_2": [("1", "0"), ("2", "1")]},
    )
    first, second = dsg.items(dsg.read_annotations(path))
    assert parents(first) == {"1": (), "2": (), "3": ()}
    assert parents(second) == {"1": (), "2": ("1",)}


def test_a_question_that_an_item_lacks_is_absent(read):
    item = read(("2", "1"), ("3", "1,2"))
    assert item.absent == ("1",)
    assert parents(item) == {"2": ("1",), "3": ("1", "2")}
    cascading = read(("2", "1"), ("3", "1,2"), cascading=True)
    assert cascading.absent == ()
    assert parents(cascading) == {"2": (), "3": ("2",)}


def test_cascading_reaches_all_ancestors_and_ends_in_circles(read):
    item = read(("1", "0"), ("2", "1"), ("3", "2"), ("4", "3, right"), ("5", "6"), ("6", "5"), cascading=True)
    assert {id: set(found) for id, found in parents(item).items()} == {
        "1": set(),
        "2": {"1"},
        "3": {"1", "2"},
        "4": {"1", "2", "3"},
        "5": {"5", "6"},
        "6": {"5", "6"},
    }


def test_bytes_of_another_system_and_rows_apart_make_no_difference(tmp_path):
    items = {"a_1": [("1", "0"), ("2", "1")], "b_1": [("1", "0")]}
    plain = annotations(tmp_path / "a.csv", items)
    other = annotations(tmp_path / "b.csv", items, end="\r\n")
    other.write_bytes(b"\xef\xbb\xbf" + other.read_bytes())
    apart = plain.read_text().splitlines(keepends=True)
    (tmp_path / "c.csv").write_text("".join([apart[0], apart[1], apart[3], "\n", apart[2]]))
    expected = dsg.items(dsg.read_annotations(plain))
    for path in (other, tmp_path / "c.csv"):
        assert dsg.items(dsg.read_annotations(path)) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no column item_id"),
        ("item_id,text\na,b\n", "has no column proposition_id"),
        (HEADER, "holds no rows"),
        (HEADER + "a_1,t,k,1\n", "line 2: has 4 cells, the header has 9"),
        (HEADER + "a_1,t,k,one,0,entity,whole,t,q\n", "line 2: proposition_id is 'one'"),
        (HEADER + f"a_1,t,k,{'1' * 5000},0,entity,whole,t,q\n", "line 2: proposition_id is '1111"),
        (
            HEADER + "a_1,t,k,1,0,entity,whole,t,q\na_1,t,k,01,0,entity,whole,t,q\n",
            "line 3: item 'a_1' has a prop",
        ),
        (HEADER + "a_1,t,k,1,,entity,whole,t,q\n", "line 2: dependency is empty"),
        (HEADER + "a_1,t,k,1,0,entity,whole,t,q\na_1,u,k,2,0,entity,whole,t,q\n", "line 3: item 'a_1'"),
        (HEADER + 'a_1,"t,k,1,0', "is not valid CSV"),
    ],
)
def test_a_broken_dsg_file_is_named_by_line(tmp_path, text, named):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError) as error:
        dsg.read_annotations(tmp_path / "a.csv")
    assert named in str(error.value) and str(tmp_path / "a.csv") in str(error.value)


# TIFA and HPS v2 -------------------------------------------------------------------------------


def tifa_question(
    id: str = "coco_1", question: str = "is this a dog?", **changes: object
) -> dict[str, object]:
    row = {"id": id, "caption": "A dog. ", "question": question, "choices": ["yes", "no"], "answer": "yes"}
    return {**row, "element_type": "animal/human", "element": "dog", **changes}


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_tifa_questions_are_numbered_in_their_captions(tmp_path):
    rows = [
        tifa_question(),
        tifa_question(
            "paintskill_7", "how many?", choices=["1", "2", "2"], answer="2", element_type="counting"
        ),
        tifa_question(question="who is it?", choices=["dog", "cat"], answer="dog"),
    ]
    first, second = tifa.read_questions(write(tmp_path / "q.json", rows))
    assert (first.id, first.prompt, first.source, second.source) == (
        "coco_1",
        "A dog. ",
        "coco",
        "paintskill",
    )
    assert [(q.id, q.text, q.answer) for q in first.questions] == [
        ("1", "is this a dog?", "yes"),
        ("2", "who is it?", "dog"),
    ]
    assert (second.questions[0].choices, second.questions[0].category) == (("1", "2"), "counting")


def test_tifa_text_inputs_are_prompts_without_questions(tmp_path):
    rows = [
        {"id": "coco_1", "caption": "A dog.", "coco_val_id": "7"},
        {"id": "drawbench_2", "caption": "A cat."},
    ]
    items = tifa.read_questions(write(tmp_path / "q.json", rows))
    assert [(item.id, item.prompt, item.questions) for item in items] == [
        ("coco_1", "A dog.", ()),
        ("drawbench_2", "A cat.", ()),
    ]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ({}, "not a list"),
        ([], "not a list"),
        (["a"], "entry 1: the entry is 'a'; it must be a mapping of id, caption"),
        ([tifa_question(), {"id": "coco_2", "caption": "A"}], "entry 2: missing key question"),
        ([{"id": "coco_2", "caption": "A"}, tifa_question()], "entry 2: has a question"),
        ([{"id": "coco_2", "caption": "A"}] * 2, "'coco_2' appears twice"),
        ([tifa_question(choices=[])], "entry 1: choices is []"),
        ([tifa_question(answer=1)], "entry 1: answer is 1; it must be a valid string"),
        ([tifa_question(answer=["yes"])], "entry 1: answer is ['yes']"),
        ([tifa_question(answer="maybe")], "answer 'maybe' is not among its choices; allowed: yes, no"),
        ([tifa_question(caption=None)], "entry 1: caption is None"),
    ],
)
def test_a_broken_tifa_file_is_named_by_entry(tmp_path, rows, named):
    with pytest.raises(UserError) as error:
        tifa.read_questions(write(tmp_path / "q.json", rows))
    assert named in str(error.value)


def test_hps_prompts_are_numbered_in_their_styles(tmp_path):
    files = {
        "photo": write(tmp_path / "p.json", ["a street"]),
        "anime": write(tmp_path / "a.json", ["a knight", "a knight"]),
    }
    items = hps.read(files)
    assert [(item.id, item.prompt, item.skill, item.questions) for item in items] == [
        ("anime-00000", "a knight", "anime", ()),
        ("anime-00001", "a knight", "anime", ()),
        ("photo-00000", "a street", "photo", ()),
    ]
    assert list(hps.FILES) == ["anime", "concept-art", "paintings", "photo"]


@pytest.mark.parametrize("rows", [{}, [], ["a", " "], ["a", 3]])
def test_a_broken_style_file_is_named(tmp_path, rows):
    with pytest.raises(UserError, match=r"a\.json"):
        hps.read({"anime": write(tmp_path / "a.json", rows)})


# The stage -------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the benchmark stage for a section of params in a project of its own; returns the folder it wrote."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("selma", "stages", "dvc.yaml"):
        (root / name).symlink_to(ROOT / name)
    monkeypatch.chdir(root)
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def run(name: str, section: dict[str, object]) -> Path:
        yaml = YAML()
        settings = yaml.load(ROOT / "params.yaml")
        own = "path" in section
        (settings["own"] if own else settings)["benchmarks"][name] = section
        yaml.dump(settings, root / "params.yaml")
        stage = own_benchmark if own else benchmark
        monkeypatch.setenv("DVC_STAGE", f"{stage.__name__.rpartition('.')[2]}@{name}")
        stage.main(name)
        return root / "data/benchmarks" / name

    return run


def test_dsg_comes_by_path_and_its_file_stays_beside_the_split(stage, tmp_path, capsys):
    source = annotations(tmp_path / "mine.csv", {"a_1": [("1", "0"), ("2", "1, left")], "a_2": [("2", "1")]})
    folder = stage("dsg", {"source": "dsg", "path": str(source)})
    assert splits(folder) == ["test"]
    assert [(item.id, item.absent) for item in load_split(folder, "test")] == [("a_1", ()), ("a_2", ("1",))]
    assert (folder / "annotations.csv").read_bytes() == source.read_bytes()
    assert "sha256" not in capsys.readouterr().err


def test_hps_comes_as_a_file_per_style_and_says_what_to_pin(stage, tmp_path, capsys):
    source = write(tmp_path / "mine.json", ["a knight"])
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    folder = stage("hps", {"source": "hps", "files": {"anime": {"url": source.as_uri()}}})
    assert [item.id for item in load_split(folder, "test")] == ["anime-00000"]
    assert f"is {found}: pin it as benchmarks.hps.files.anime.sha256" in capsys.readouterr().err


def test_hps_comes_from_a_folder_of_its_files(stage, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(
        UserError, match=r"own\.benchmarks\.hps\.path is .*mine; it must be a folder that holds one"
    ):
        stage("hps", {"source": "hps", "path": str(tmp_path / "mine")})
    for style in ("anime", "photo"):
        write(tmp_path / "mine" / f"{style}.json", ["a knight"])
    folder = stage("hps", {"source": "hps", "path": str(tmp_path / "mine")})
    assert [item.id for item in load_split(folder, "test")] == ["anime-00000", "photo-00000"]
    assert (folder / "anime.json").is_file()


def test_a_file_that_is_another_than_the_pinned_one_leaves_what_was_there(stage, tmp_path):
    source = write(tmp_path / "mine.json", [tifa_question()])
    folder = stage("tifa", {"source": "tifa", "path": str(source)})
    before = (folder / "test.jsonl").read_bytes()
    with pytest.raises(UserError, match=f"benchmarks.tifa.sha256 is {'0' * 64}"):
        stage("tifa", {"source": "tifa", "url": source.as_uri(), "sha256": "0" * 64})
    write(source, {})
    with pytest.raises(UserError, match="not a list of questions"):
        stage("tifa", {"source": "tifa", "path": str(source)})
    source.unlink()
    with pytest.raises(UserError, match=r"mine\.json: cannot be read"):
        stage("tifa", {"source": "tifa", "path": str(source)})
    assert (folder / "test.jsonl").read_bytes() == before


@pytest.mark.parametrize("by", ["path", "url"])
def test_what_is_wrong_in_a_users_file_is_named_by_its_own_name(stage, tmp_path, by):
    """Not by that of the copy in the work folder, on which the stage works."""
    source = tmp_path / "mine.csv"
    source.write_text(HEADER + "a_1,t,k,one,0,entity,whole,t,q\n")
    given = source.as_uri() if by == "url" else str(source)
    with pytest.raises(UserError) as error:
        stage("dsg", {"source": "dsg", by: given})
    assert str(error.value).startswith(f"{given}, line 2: proposition_id is 'one'")
    source.write_text(HEADER + "a/1,t,k,1,0,entity,whole,t,q\n")
    with pytest.raises(UserError) as error:
        stage("dsg", {"source": "dsg", by: given})
    assert str(error.value).startswith(f"{given}, item 1: id is 'a/1'")
    assert ".work" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        (
            {"source": "web"},
            "benchmarks.x.source is 'web'; it must be one of: compbench, csv, dpg, dsg, geneval, geneval2, hps, "
            "shapes, tifa",
        ),
        ({"source": "shapes", "seed": 1, "dev_per_skill": 1}, "benchmarks.x.test_per_skill is missing"),
        ({"source": "dsg"}, "benchmarks.x.url is missing; the source dsg needs it"),
        (
            {"source": "dsg", "path": "p"},
            "benchmarks.x.path: files of your own belong in `own.benchmarks`, where DVC sees their edits: "
            "x: {source: dsg, path: ...}",
        ),
        ({"source": "hps", "files": {"photo": {"path": "p"}}}, "belong in `own.benchmarks`"),
        ({"source": "tifa", "url": "u", "seed": 1}, "benchmarks.x.seed does not apply to the source tifa"),
        ({"source": "tifa", "url": "u", "sha256": "ab"}, "benchmarks.x.sha256 is 'ab'; it must be a sha256"),
        ({"source": "hps", "url": "u"}, "benchmarks.x.url does not apply to the source hps"),
        ({"source": "hps"}, "benchmarks.x.files is missing"),
        ({"source": "hps", "files": {"photo": {}}}, "benchmarks.x.files.photo.url is missing"),
        (
            {"source": "hps", "files": {"oil": {"url": "u"}}},
            "benchmarks.x.files holds oil; it must be one of",
        ),
    ],
)
def test_a_section_that_does_not_fit_its_source_is_one_line(tmp_path, section, named):
    yaml = YAML()
    settings = yaml.load(ROOT / "params.yaml")
    settings["benchmarks"]["x"] = section
    yaml.dump(settings, tmp_path / "params.yaml")
    with pytest.raises(UserError) as error:
        load_params(tmp_path / "params.yaml")
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"source": "shapes", "path": "p"}, "own.benchmarks.x.source is shapes, which is made from a seed"),
        ({"source": "dsg"}, "missing key own.benchmarks.x.path"),
        ({"source": "dsg", "path": "https://a.b/c.csv"}, "it must be a path on this disk"),
        ({"source": "dsg", "path": "p", "sha256": "0" * 64}, "unknown key own.benchmarks.x.sha256"),
    ],
)
def test_a_row_of_ones_own_that_cannot_be_is_one_line(tmp_path, section, named):
    yaml = YAML()
    settings = yaml.load(ROOT / "params.yaml")
    settings["own"]["benchmarks"]["x"] = section
    yaml.dump(settings, tmp_path / "params.yaml")
    with pytest.raises(UserError) as error:
        load_params(tmp_path / "params.yaml")
    assert named in str(error.value) and "\n" not in str(error.value)


def test_a_source_keeps_its_files_under_their_names():
    assert dsg.FILES == {"annotations": "annotations.csv"}
    assert hps.FILES["concept-art"] == "concept-art.json"


def test_published_benchmarks_of_other_forms_come_by_url_and_stay_beside_the_split(stage, tmp_path):
    lines = {
        "dpg": f'{HEADER}barn1,A red barn.,,1,0,,,"entity - whole (barn)",Is there a barn?\n',
        "geneval": '{"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a photo of a cow"}',
        "geneval2": '{"prompt": "two cows", "atom_count": 3, "vqa_list": [["Is it?", "Yes"]], "skills": ["object"]}',
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
        folder = stage(name, {"source": name, "url": (tmp_path / name).as_uri()})
        (item,) = load_split(folder, "test")
        assert item.questions[0].answer == "yes"
    (tmp_path / "3d.txt").write_text("a cow behind a barn\n")
    files = {"3d_spatial": {"url": (tmp_path / "3d.txt").as_uri()}}
    folder = stage("compbench", {"source": "compbench", "files": files})
    assert [item.id for item in load_split(folder, "test")] == ["3d_spatial-00000"]
    assert (folder / "3d_spatial_val.txt").is_file()
