"""`python -m selma.table --beside`: a run beside the committed one, and what is said of their difference."""

from __future__ import annotations

import copy
import json
import re
import subprocess

import pytest

from selma import table as command
from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.reporting import committed
from tests.test_report import summary


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose last commit holds a run."""
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "metrics/eval.json", summary())
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "a run"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def shown(monkeypatch, capsys) -> str:
    monkeypatch.setattr("sys.argv", ["table", "--beside"])
    command.main()
    return capsys.readouterr().out


def changed(**gains: float) -> dict:
    found = copy.deepcopy(summary())
    for name, mean in gains.items():
        gain = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        found["gains"][name.replace("_", " ")] = gain
    return found


def test_the_same_numbers_are_said_to_be_the_same(repository, monkeypatch, capsys):
    assert "These are the committed numbers." in shown(monkeypatch, capsys)


def test_another_processors_numbers_stand_beside_the_committed_ones(repository, monkeypatch, capsys):
    write_json(repository / "metrics/eval.json", changed(merged_over_base=0.03))
    text = shown(monkeypatch, capsys)
    rows = [line.split() for line in text.splitlines()]
    assert rows.count(["base", "60.00", "60.00"]) == 1
    assert re.search(
        r"merged over base, points +\+2\.10 \[\+0\.50, \+3\.70\] +\+3\.00 \[\+2\.00, \+4\.00\]", text
    )
    assert "differ by the processor" in text and "flips" not in text


def test_a_verdict_that_flips_is_named(repository, monkeypatch, capsys):
    write_json(repository / "metrics/eval.json", changed(merged_over_single=0.03))
    assert "The verdict on merged over single flips" in shown(monkeypatch, capsys)


def test_runs_that_were_examined_otherwise_are_not_compared(repository, monkeypatch, capsys):
    other = changed(merged_over_single=0.03)
    other["drawing"]["guidance"] = 3.0
    write_json(repository / "metrics/eval.json", other)
    text = shown(monkeypatch, capsys)
    assert "not examined alike (drawing)" in text and "flips" not in text and "by the processor" not in text


def test_without_a_commit_the_table_alone_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    write_json(tmp_path / "metrics/eval.json", summary())
    text = shown(monkeypatch, capsys)
    assert "62.10" in text and "committed" not in text


def study(**changes) -> dict:
    runs = {str(n): {**summary(), "gains": {"merged over base": {"mean": n / 100}}} for n in (1, 3, 2)}
    pooled = {"gains": {"merged over base": {"mean": 0.02, "low": 0.01, "high": 0.03}}}
    return {"runs": runs, "pooled": pooled, **changes}


def test_the_spread_over_seeds_is_the_studys(tmp_path):
    write_json(tmp_path / "seeds.json", study())
    first, line = committed.spread(summary(), tmp_path / "seeds.json").splitlines()
    assert first.startswith("Over 3 training seeds (")
    assert line == "  merged over base +2.0 [+1.0, +3.0] points, single runs +1.0 to +3.0"
    assert committed.spread(summary(benchmark="tifa"), tmp_path / "seeds.json") is None
    assert committed.spread(summary(), tmp_path / "none.json") is None


@pytest.mark.parametrize("content", [{}, [], {"runs": {}}, study(pooled=None)])
def test_a_file_that_is_no_study_is_one_line(tmp_path, content):
    (tmp_path / "seeds.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a pooled study"):
        committed.spread(summary(), tmp_path / "seeds.json")
