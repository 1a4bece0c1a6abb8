"""What votes add up to: the paper's own counts, hand-worked shares, agreement with raters and judges; in the report."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma import rate
from selma.ground.files import read_json, write_json, write_jsonl
from selma.rating import votes as store
from selma.rating.pairs import read_couples, sides
from selma.rating.summary import alpha, summarise
from selma.rating.votes import Vote
from selma.reporting import human
from tests.rating_project import MODELS, items, make

# SELMA (arXiv 2403.06952), table 8: votes of three raters on 200 prompts of DSG, SDXL+SELMA against SDXL; the last row
# is what the five leave of the total, 241 / 114 / 245.
TABLE_8 = {  # win, lose, tie
    "localized": (19, 5, 12),
    "diffusiondb": (6, 5, 34),
    "countbench": (26, 11, 17),
    "coco": (35, 2, 47),
    "whoops": (21, 10, 26),
    "others": (134, 81, 109),
}
RATERS = ("anna", "ben", "cleo")


def fill(root, said):
    """Keep votes by the page's own function: said[item] lists a verdict of each rater, 1 where `merged` is better."""
    path = store.votes_file(root / rate.FOLDER, MODELS, "shapes")
    kept = store.start(path, MODELS, "shapes", None, 42)
    for couple in read_couples(root / "data/samples", MODELS, "shapes"):
        for rater, verdict in zip(RATERS, said[couple.item], strict=False):
            shown = sides(couple, kept.seed, rater)
            better = {1: "merged", -1: "base"}.get(verdict)
            kept.add(rater, couple, shown, ("left", "right")[shown.index(better)] if better else "tie")


@pytest.fixture
def summary(tmp_path, monkeypatch, capsys):
    """Run the summary in a project; its JSON and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*options):
        monkeypatch.setattr(sys, "argv", ["rate", *MODELS, "--summary", "--json", "out.json", *options])
        rate.main()
        return read_json(tmp_path / "out.json"), capsys.readouterr().out

    return call


def test_the_papers_counts_come_out(tmp_path, summary):
    skills = [skill for skill, counts in TABLE_8.items() for _ in range(sum(counts) // 3)]
    found = items(skills)
    make(tmp_path, found, size=8)
    said = {}
    for skill, (win, lose, tie) in TABLE_8.items():
        verdicts = iter([1] * win + [-1] * lose + [0] * tie)
        said |= {item.id: [next(verdicts) for _ in RATERS] for item in found if item.skill == skill}
    fill(tmp_path, said)
    record, text = summary()
    assert record["votes"] == {"win": 241, "tie": 245, "lose": 114}
    assert (record["n_prompts"], record["n_raters"]) == (200, 3)
    assert [record["share"][key]["mean"] for key in ("win", "tie", "lose")] == [0.4017, 0.4083, 0.19]
    assert record["decided"]["mean"] == 0.6789  # "preferred 67.9% of the time, compared to 32.1%"
    assert record["net"]["mean"] == 0.2117 and record["net"]["low"] > 0
    assert record["by_skill"]["coco"] == {"win": 35, "tie": 47, "lose": 2}
    assert "600 votes, 200 prompts, raters: 3" in text and "67.9%" in text and "merged better" in text


def vote(rater, item, verdict, left=MODELS[0]):
    right = MODELS[1] if left == MODELS[0] else MODELS[0]
    choice = {0: "tie", 1: "left", -1: "right"}[verdict if left == MODELS[0] else -verdict]
    return Vote(rater, item, "", item, left, right, choice, "")


def count(votes, **options):
    return summarise(votes, MODELS, "shapes", resamples=200, seed=0, **options)


def test_a_prompts_raters_are_averaged_first():
    found = count([vote("a", "1", 1), vote("b", "1", 1), vote("c", "1", 1), vote("a", "2", -1)])
    assert found["votes"] == {"win": 3, "tie": 0, "lose": 1}
    assert found["share"]["win"]["mean"] == 0.5 and found["net"]["mean"] == 0
    assert found["decided"]["mean"] == 0.75 and found["left"] == 0.75


@pytest.mark.parametrize("prompts", [9, 10])
def test_intervals_over_few_prompts_are_said_to_be_too_narrow(tmp_path, summary, prompts):
    make(tmp_path, items(["count"] * prompts), size=8)
    fill(tmp_path, {f"count-{i:03}": [1, 0] for i in range(prompts)})
    _, text = summary()
    assert ("9 prompts are too few" in text) == (prompts == 9)


def test_ties_alone_have_no_winner():
    found = count([vote("a", "1", 0)])
    assert found["decided"] is found["left"] is found["alpha"] is None


def test_alpha_by_hand():
    """Krippendorff's nominal alpha from its coincidences: 1 - (n - 1) * disagreeing / (n^2 - sum of n_c^2)."""
    votes = [vote("a", str(i), x) for i, x in enumerate((1, 1, -1, -1))]
    votes += [vote("b", str(i), x) for i, x in enumerate((1, 1, -1, 1))]
    # pairable values: 5 wins, 3 losses; ordered disagreeing pairs: 2 of 8
    assert alpha(votes, MODELS) == pytest.approx(1 - 7 * 2 / (64 - 25 - 9), abs=1e-4)
    assert alpha(votes[:4], MODELS) is None  # one rater
    assert alpha([vote(r, i, 0) for r in "ab" for i in "12"], MODELS) is None  # nothing varies
    assert alpha([vote(r, i, x) for r in "ab" for i, x in (("1", 1), ("2", 0))], MODELS) == 1


cells = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from("12345")), st.sampled_from((-1, 0, 1)), min_size=1
)


@given(cells, st.randoms(use_true_random=False))
def test_turning_the_models_round_turns_the_summary_round(table, random):
    votes = [vote(*key, verdict, random.choice(MODELS)) for key, verdict in table.items()]
    found, turned = count(votes), summarise(votes, MODELS[::-1], "shapes", resamples=200, seed=0)
    assert found["votes"]["win"] == turned["votes"]["lose"] and found["alpha"] == turned["alpha"]
    assert found["share"]["win"] == turned["share"]["lose"]
    assert found["net"]["mean"] == pytest.approx(-turned["net"]["mean"], abs=1e-4)
    assert sum(found["votes"].values()) == len(table)
    assert sum(share["mean"] for share in found["share"].values()) == pytest.approx(1, abs=2e-4)


def test_judges_are_compared_with_people(tmp_path, summary):
    """On the first image of each prompt: the oracle's answers by DSG's score, and a preference judge's scores."""
    found = items(["count"] * 4)
    make(tmp_path, found, size=8)
    fill(tmp_path, dict(zip([item.id for item in found], [[1, 1, 0], [1], [-1], [0]], strict=True)))
    answers = {"merged": ("yes", "no", "yes", "yes"), "base": ("no", "yes", "yes", "yes")}  # 1, -1, 0, 0
    scores = {"merged": (1.0, 2.0, 3.0, 4.0), "base": (0.0, 1.0, 4.0, 5.0)}  # 1, 1, -1, -1
    for model in MODELS:
        rows = [
            {
                "item": one.id,
                "k": k,
                "question": "1",
                "answer": said if k == 0 else "no",
                "p_yes": 1.0,
                "expected": "yes",
            }
            for one, said in zip(found, answers[model], strict=True)
            for k in (0, 1)
        ]
        write_jsonl(tmp_path / "data/answers" / model / "shapes.jsonl", rows)
        rows = [
            {"item": one.id, "k": 0, "judge": "clip", "score": score}
            for one, score in zip(found, scores[model], strict=True)
        ]
        write_jsonl(tmp_path / "data/preferences/clip" / model / "shapes.jsonl", rows)
    record, text = summary()
    oracle, clip = record["judges"]["oracle"], record["judges"]["clip"]
    assert (oracle["same"]["mean"], oracle["n_decided"], oracle["decided"]["mean"]) == (0.5, 2, 0.5)
    assert (clip["same"]["mean"], clip["n_decided"], clip["decided"]["mean"]) == (0.75, 3, 1)
    assert "oracle" in text and "says the same" in text


def test_the_report_shows_what_the_summary_wrote(tmp_path, monkeypatch, capsys):
    make(tmp_path, items(["count"] * 3), size=8)
    fill(tmp_path, {f"count-{i:03}": [1, 0] for i in range(3)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rate", *MODELS, "--summary", "--json"])
    rate.main()
    assert "metrics/human/merged-vs-base-shapes.json" in capsys.readouterr().out
    (table,) = human.read(tmp_path / "metrics")
    assert table["title"] == "merged against base, shapes" and table["rows"][0][:3] == [
        "merged better",
        "3",
        "50.00",
    ]
    assert human.read(tmp_path / "nowhere") == []


def test_votes_alone_are_enough_where_the_images_are_gone(tmp_path, summary):
    import shutil

    make(tmp_path, items(["count"] * 3), size=8)
    fill(tmp_path, {f"count-{i:03}": [1, 0] for i in range(3)})
    before, _ = summary()
    shutil.rmtree(tmp_path / "data/samples")
    assert summary()[0] == before
    with pytest.raises(SystemExit):
        summary("--pairs", "2")


def test_an_odd_record_is_no_result(tmp_path):
    from selma.ground.errors import UserError

    write_json(tmp_path / "human/x.json", json.loads('{"models": ["a"], "benchmark": "x"}'))
    with pytest.raises(UserError, match=r"human/x\.json"):
        human.read(tmp_path)
