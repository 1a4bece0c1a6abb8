"""Stage `filter` holding prompts out of training, to choose checkpoints by."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from selma.ground.errors import UserError
from selma.ground.files import read_json, read_jsonl, read_record, write_jsonl
from selma.ground.items import Item, Question, write_split
from selma.reporting.metrics import Filter
from stages import filter as filter_stage

ROOT = Path(__file__).parents[1]
WORDS = ["circle", "square", "star", "cross", "moon", "house", "river", "train", "apple", "clock"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Ten candidates that share no word, and an exam without a dev split."""
    for code in ("selma", "stages"):
        (tmp_path / code).symlink_to(ROOT / code)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "data/skills", tmp_path / "data/skills")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("DVC_STAGE", "filter@count")
    question = Question("1", "Is there a dog?", ("yes", "no"), "yes", (), "entity")
    write_split(Path("data/benchmarks/shapes"), "test", [Item("t", "a dog", "count", "x", (question,))])
    rows = [{"id": f"count-{i}", "text": word} for i, word in enumerate(WORDS)]
    write_jsonl(Path("data/prompts/count/prompts.jsonl"), rows)

    def run(keep: int, dev: int, other: str = "") -> tuple[list[str], list[str]]:
        text = (ROOT / "params.yaml").read_text(encoding="utf-8")
        text = text.replace(
            "  benchmarks: [shapes]",
            f"  benchmarks: [shapes, {other}]" if other else "  benchmarks: [shapes]",
        )
        text = text.replace("\nbenchmarks:\n", "\nbenchmarks:\n  more: {source: tifa, url: x}\n")
        text = text.replace("  keep: 200 ", f"  keep: {keep} ").replace("  dev: 0 ", f"  dev: {dev} ")
        Path("params.yaml").write_text(text, encoding="utf-8")
        filter_stage.main("count")
        folder = Path("data/filtered/count")
        held = read_jsonl(folder / "dev.jsonl") if dev else []
        return [row["text"] for row in read_jsonl(folder / "prompts.jsonl")], [r["text"] for r in held]

    return run


def test_prompts_are_held_out_evenly_and_are_trained_on_never(project):
    kept, held = project(6, 2)
    assert held == [WORDS[2], WORDS[6]]
    assert kept == [word for word in WORDS[:8] if word not in held]
    metrics = read_json(Path("metrics/filter/count.json"))
    assert (metrics["kept"], metrics["dev"], metrics["unused"]) == (6, 2, 2)


def test_none_held_out_leaves_no_trace(project):
    assert project(6, 0) == (WORDS[:6], [])
    assert not Path("data/filtered/count/dev.jsonl").exists()
    assert "dev" not in read_json(Path("metrics/filter/count.json"))


def test_prompts_near_a_further_benchmarks_prompts_are_dropped(project):
    write_split(Path("data/benchmarks/more"), "test", [Item("m", WORDS[1], "x", "x", ())])
    assert project(6, 0)[0] == WORDS[:6]
    assert project(6, 0, "more")[0] == [WORDS[0], *WORDS[2:7]]
    (dropped,) = read_jsonl(Path("data/filtered/count/dropped.jsonl"))
    assert (dropped["text"], dropped["reason"], dropped["neighbour"]) == (WORDS[1], "exam", WORDS[1])


def test_a_benchmark_without_its_test_split_is_an_error(project):
    with pytest.raises(UserError, match=r"data/benchmarks/more/test\.jsonl is missing"):
        project(6, 0, "more")
    write_split(Path("data/benchmarks/more"), "dev", [Item("m", "a dog", "x", "x", ())])
    with pytest.raises(UserError, match=r"test\.jsonl is missing; this benchmark has a dev split only"):
        project(6, 0, "more")
    assert not Path("data/filtered").exists()


def test_metrics_say_how_many_prompts_rouge_score_could_not_have_read(project):
    def judged(*texts: str) -> dict:
        rows = [{"id": f"count-{i}", "text": text} for i, text in enumerate(texts)]
        write_jsonl(Path("data/prompts/count/prompts.jsonl"), rows)
        project(3, 0)
        return read_record(Path("metrics/filter/count.json"), Filter)  # as the report reads it

    assert "unicode_tokens" not in judged("a “red” dog", "two cats", "three birds", "один круг")
    metrics = judged("один круг", "один  круг!", "两只猫", "two cats", "a dog", "один квадрат")
    assert metrics["unicode_tokens"] == 3  # two kept, one dropped, one not looked at
    assert metrics["dropped"] == {"too_long": 0, "exam": 0, "similar": 1}


def test_too_few_for_both_says_so(project):
    with pytest.raises(UserError, match=r"1 short of filter\.keep \(9\) and filter\.dev \(2\)"):
        project(9, 2)
