"""Stages `prompts` and `filter` in a copy of the repository, with a small LLM of the test's own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import pytest
from ruamel.yaml import YAML

from selma.ground.errors import UserError
from selma.ground.files import read_json, read_jsonl
from selma.ground.items import SPLITS, Item, Question, write_split
from selma.ground.pairs import prompt_id
from selma.prompts import provider
from selma.runtime import stage
from selma.runtime.params import Llm
from selma.variants.providers import shapes
from stages import filter as filter_stage
from stages import prompts as prompts_stage

ROOT = Path(__file__).parent.parent
EXAM = {"dev": "exactly two red circles on a white background", "test": "three green crosses in total"}
CODE = ("selma", "stages", "dvc.yaml")


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A copy of code and skills with params for 60 candidates, an exam of two prompts and the test's LLM."""
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "data/skills", tmp_path / "data/skills")
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    change(
        tmp_path,
        {
            "llm.provider": "shapes",
            "prompts.candidates": 60,
            "prompts.per_request": 8,
            "prompts.round": 3,
            "filter.keep": 20,
        },
    )
    for split, prompt in EXAM.items():
        question = Question("1", "Is there a circle?", ("yes", "no"), "yes", (), "shape")
        write_split(
            tmp_path / "data/benchmarks/shapes", split, [Item(split, prompt, "count", "shapes", (question,))]
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    use(monkeypatch, write)
    return tmp_path


def change(repo: Path, values: dict[str, object]) -> None:
    """Set params by their dotted keys."""
    yaml = YAML()
    params = yaml.load(repo / "params.yaml")
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        section = params
        for part in sections:
            section = section[part]
        assert key in section, dotted
        section[key] = value
    yaml.dump(params, repo / "params.yaml")


def use(monkeypatch, answer) -> None:
    """Make `answer` the LLM, in place of the embedded one."""

    def load(settings: Llm) -> provider.Provider:
        return provider.ThreadedProvider(
            lambda request: provider.Reply(request.index, *answer(request.text, request.seed)),
            settings.concurrency,
        )

    monkeypatch.setattr(shapes, "load", load)


def write(request: str, seed: int) -> tuple[str, str]:
    """An LLM that repeats itself, echoes the exam, goes on too long, skips numbers and is cut off."""
    rng = Random(seed + len(request))  # examples matter, as they do to a real one
    items = [
        f"{rng.choice(NUMBERS)} {rng.choice(COLORS)} {rng.choice(SHAPES)} {rng.choice(GROUNDS)}"
        for _ in range(6)
    ]
    items += ["Exactly two red circles on a white background.", f"{'very ' * 40}long {rng.random()}"]
    rng.shuffle(items)
    lines = [f"{number}. {item}" for number, item in zip(rng.sample(range(99), 8), items, strict=True)]
    return "Sure!\n\n" + "\n".join([*lines, "100. cut o"]), "length"


NUMBERS = ("one", "two", "three", "exactly one", "exactly two", "exactly three")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circles", "squares", "triangles", "crosses")
GROUNDS = ("", "on plain white", "against a black backdrop", "with a gray background", "in total")


def run(monkeypatch, module, skill: str = "count") -> None:
    monkeypatch.setenv("DVC_STAGE", f"{module.__name__.rpartition('.')[2]}@{skill}")
    module.main(skill)


def outs(repo: Path) -> dict[str, bytes]:
    folder = repo / "data/prompts/count"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# prompts -----------------------------------------------------------------------------------------


def test_prompts_are_collected_and_raw_replies_kept(repo, monkeypatch):
    run(monkeypatch, prompts_stage)
    rows = read_jsonl(repo / "data/prompts/count/prompts.jsonl")
    raw = read_jsonl(repo / "data/prompts/count/raw.jsonl")

    assert len(rows) == 60
    assert len({row["text"] for row in rows}) == 60
    assert all(row["id"] == prompt_id("count", row["text"]) for row in rows)
    assert sum(row["repeats"] for row in rows) > 0
    assert not any(row["text"].startswith("cut") for row in rows)
    assert [row["request"] for row in rows] == sorted(row["request"] for row in rows)
    assert [row["index"] for row in raw] == list(range(len(raw)))
    assert len(raw) % 3 == 0  # whole rounds
    for row in rows:
        assert row["text"] in raw[row["request"]]["reply"]
    assert not (repo / ".work").exists() or not any((repo / ".work").rglob("*.jsonl"))
    assert not (repo / ".llm").exists()
    metrics = {"requests": len(raw), "empty": 0, "candidates": 60}
    assert read_json(repo / "metrics/prompts/count.json") == metrics


def test_examples_come_from_the_pool_at_the_rounds_start(repo, monkeypatch):
    run(monkeypatch, prompts_stage)
    rows = read_jsonl(repo / "data/prompts/count/prompts.jsonl")
    raw = read_jsonl(repo / "data/prompts/count/raw.jsonl")
    skill = prompts_stage.load_skill("data/skills/shapes", "count")
    shown = [re.findall(r"^\d+\. (.*)$", row["request"], re.MULTILINE) for row in raw]

    assert all(len(set(examples)) == 3 for examples in shown)
    for row, examples in zip(raw, shown, strict=True):
        start = row["index"] // 3 * 3
        pool = {*skill.seeds, *(other["text"] for other in rows if other["request"] < start)}
        assert set(examples) <= pool
    assert any(set(examples) - set(skill.seeds) for examples in shown)  # the pool really grows
    assert len({row["seed"] for row in raw}) == len(raw)


def test_concurrency_changes_nothing_and_the_seed_does(repo, monkeypatch):
    run(monkeypatch, prompts_stage)
    first = outs(repo)
    change(repo, {"llm.concurrency": 1})
    run(monkeypatch, prompts_stage)
    assert outs(repo) == first
    change(repo, {"seed": 43})
    run(monkeypatch, prompts_stage)
    assert outs(repo)["prompts.jsonl"] != first["prompts.jsonl"]


def test_a_killed_stage_resumes_without_asking_again(repo, monkeypatch):
    run(monkeypatch, prompts_stage)
    whole = outs(repo)
    shutil.rmtree(repo / "data/prompts")
    asked, lock = [], threading.Lock()

    def dies(request: str, seed: int) -> tuple[str, str]:
        with lock:
            asked.append(seed)
            if len(asked) == 8:
                raise KeyboardInterrupt
        return write(request, seed)

    use(monkeypatch, dies)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, prompts_stage)
    assert not (repo / "data/prompts").exists()
    [saved] = (repo / ".work/prompts@count").rglob("replies.jsonl")
    answered = {json.loads(line)["seed"] for line in saved.read_text().splitlines()}
    assert len(answered) >= 6  # two whole rounds

    def goes_on(request: str, seed: int) -> tuple[str, str]:
        assert seed not in answered
        return write(request, seed)

    use(monkeypatch, goes_on)
    run(monkeypatch, prompts_stage)
    assert outs(repo) == whole


@pytest.mark.parametrize(
    "reply", ["I cannot help with that.", "4. two red circles\n5. a picture with exactly two blue squares"]
)
def test_a_provider_that_runs_dry_ends_in_an_error(repo, monkeypatch, reply):
    use(monkeypatch, lambda request, seed: (reply, "stop"))
    with pytest.raises(UserError, match=r"nothing new after [01] prompts; lower prompts.candidates"):
        run(monkeypatch, prompts_stage)
    assert not (repo / "data/prompts").exists()


@pytest.mark.parametrize(
    ("reply", "finish_reason", "cure"),
    [
        ("", "length", "raise llm.max_tokens"),
        ("", "MAX_TOKENS", "raise llm.max_tokens"),
        ("<think>1. Pick colours\n2. Repeat", "length", "raise llm.max_tokens"),
        ("<think>1. Pick colours\n2. Repeat", "stop", "thoughts and no answer: raise llm.max_tokens"),
        ("4. a pic", "length", "raise llm.max_tokens"),
        ("", "stop", "the replies are empty"),
        ("4. a pic", "content_filter", "a content filter stops the replies"),
        (
            "I cannot help with that.",
            "stop",
            "lower prompts.candidates, raise prompts.round, or widen its rules",
        ),
        (
            "4. two red circles\n5. two",
            "length",
            "lower prompts.candidates, raise prompts.round, or widen its rules",
        ),
    ],
)
def test_a_dry_run_names_the_cure_that_fits(repo, monkeypatch, reply, finish_reason, cure):
    use(monkeypatch, lambda request, seed: (reply, finish_reason))
    with pytest.raises(UserError, match=r"nothing new after [01] prompts") as error:
        run(monkeypatch, prompts_stage)
    assert cure in str(error.value) and "\n" not in str(error.value)


def test_half_a_character_ends_no_run_and_spoils_no_later_one(repo, monkeypatch):
    def half(request: str, seed: int) -> tuple[str, str]:
        return "4. two red \ud83d circles\n" + write(request, seed)[0], "stop"

    use(monkeypatch, half)
    run(monkeypatch, prompts_stage)
    assert read_jsonl(repo / "data/prompts/count/prompts.jsonl")[0]["text"] == "two red circles"
    run(monkeypatch, filter_stage)
    assert len(read_jsonl(repo / "data/filtered/count/prompts.jsonl")) == 20


@pytest.mark.parametrize(("module", "out"), [(prompts_stage, "prompts"), (filter_stage, "filtered")])
def test_what_a_killed_run_was_writing_is_never_published(repo, monkeypatch, module, out):
    run(monkeypatch, prompts_stage)
    run(monkeypatch, filter_stage)
    folder = repo / "data" / out / "count"
    whole = sorted(path.name for path in folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(module.work, "publish", stop)
        patch.setattr(module.work, "publish_all", stop, raising=False)
        with pytest.raises(KeyboardInterrupt):
            run(monkeypatch, module)
    [left] = (repo / ".work" / f"{module.__name__.rpartition('.')[2]}@count").glob("*/out")
    (left / ".tmp-123-prompts.jsonl").write_text("half a li")
    (left / "old.jsonl").write_text("of another version")
    run(monkeypatch, module)
    assert sorted(path.name for path in folder.iterdir()) == whole


def stop(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_bad_input_is_one_line_and_exit_code_2(repo, monkeypatch, capsys):
    seeds = repo / "data/skills/shapes/count.yaml"
    seeds.write_text(seeds.read_text().replace("  - there is one purple circle on plain white\n", ""))
    monkeypatch.setenv("DVC_STAGE", "prompts@count")
    monkeypatch.setattr(sys, "argv", ["prompts", "count"])
    with pytest.raises(SystemExit) as exit:
        stage.run(prompts_stage.main)
    assert exit.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "count.yaml: seeds holds 2 prompts; it must hold exactly 3" in line


def test_as_a_command(repo):
    """The real entry points with the embedded LLM; an unknown skill and an unknown provider get one line."""
    change(repo, {"llm.provider": "shapes", "filter.keep": 5})

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)

    for module in ("stages.prompts", "stages.filter"):
        done = call(module, "objects")
        assert done.returncode == 0, done.stderr
    assert len(read_jsonl(repo / "data/filtered/objects/prompts.jsonl")) == 5

    unknown = call("stages.prompts", "objcets")
    assert unknown.returncode == 2
    assert "objcets is unknown" in unknown.stderr and unknown.stderr.count("\n") == 1
    change(repo, {"llm.provider": "gpt"})
    unknown = call("stages.prompts", "objects")
    assert unknown.returncode == 2
    assert "llm.provider is 'gpt'" in unknown.stderr and unknown.stderr.count("\n") == 1


# filter ------------------------------------------------------------------------------------------


def test_filter_keeps_drops_and_counts(repo, monkeypatch):
    run(monkeypatch, prompts_stage)
    run(monkeypatch, filter_stage)
    candidates = read_jsonl(repo / "data/prompts/count/prompts.jsonl")
    kept = read_jsonl(repo / "data/filtered/count/prompts.jsonl")
    dropped = read_jsonl(repo / "data/filtered/count/dropped.jsonl")
    metrics = read_json(repo / "metrics/filter/count.json")

    assert [set(row) for row in kept] == [{"id", "text"}] * 20
    reasons = {row["reason"] for row in dropped}
    assert reasons == {"too_long", "similar", "exam"}
    assert (
        metrics["candidates"] == 60 == metrics["kept"] + sum(metrics["dropped"].values()) + metrics["unused"]
    )
    assert metrics["dropped"] == {r: sum(row["reason"] == r for row in dropped) for r in metrics["dropped"]}
    # The first so many, in order of arrival.
    order = [row["id"] for row in candidates]
    seen = {row["id"] for row in kept} | {row["id"] for row in dropped}
    assert [id for id in order if id in seen] == order[: len(seen)]
    assert order[len(seen) - 1] == kept[-1]["id"]
    for row in dropped:
        assert row["reason"] == "too_long" or (row["rouge_l"] > 0.8 and row["neighbour"])


@pytest.mark.parametrize("split", SPLITS)
def test_no_prompt_near_any_split_is_kept(repo, monkeypatch, split):
    rows = [
        {"id": f"count-{i}", "text": text} for i, text in enumerate((EXAM[split].upper(), "a lone cross"))
    ]
    source = repo / "data/prompts/count/prompts.jsonl"
    source.parent.mkdir(parents=True)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    change(repo, {"filter.keep": 1})
    run(monkeypatch, filter_stage)
    assert read_jsonl(repo / "data/filtered/count/prompts.jsonl") == rows[1:]
    [row] = read_jsonl(repo / "data/filtered/count/dropped.jsonl")
    assert (row["reason"], row["neighbour"], row["rouge_l"]) == ("exam", EXAM[split], 1.0)


def test_too_few_says_by_how_many_and_what_to_raise(repo, monkeypatch):
    run(monkeypatch, prompts_stage)
    change(repo, {"filter.keep": 60})
    with pytest.raises(UserError) as error:
        run(monkeypatch, filter_stage)
    passed, short = map(
        int, re.search(r"(\d+) of 60 prompts pass, (\d+) short of", str(error.value)).groups()
    )
    assert passed + short == 60 and short > 0
    assert "raise prompts.candidates, or filter.rouge_l" in str(error.value)
    assert not (repo / "data/filtered").exists()
    assert not (repo / "metrics/filter").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ('{"id": "count-1"}\n', "line 1: missing key text"),
        ("{", "line 1: is not valid JSON"),
    ],
)
def test_broken_candidates(repo, monkeypatch, content, message):
    source = repo / "data/prompts/count/prompts.jsonl"
    source.parent.mkdir(parents=True)
    if content is not None:
        source.write_text(content)
    with pytest.raises(UserError, match=message):
        run(monkeypatch, filter_stage)


def test_a_missing_exam_is_an_error(repo, monkeypatch):
    run(monkeypatch, prompts_stage)
    shutil.rmtree(repo / "data/benchmarks/shapes")
    with pytest.raises(UserError, match="data/benchmarks/shapes"):
        run(monkeypatch, filter_stage)
