"""`python -m selma.report`: runs side by side, from a real git repository and DVC's cache."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from contextlib import chdir
from pathlib import Path

import pytest
import yaml

from selma import report as command
from selma.ground.files import write_json
from selma.reporting.pages import script
from selma.reporting.runs import differing
from selma.runtime import recorder, tracking
from tests.browsing import needs_browser
from tests.test_report import summary
from tests.test_report_detail import drawn_and_judged

ROOT = Path(__file__).parents[1]
# The stages as far as a page needs their outs; `dvc commit` tells DVC that they have run.
PIPELINE = {
    "stages": {
        "benchmark": {"cmd": "true", "outs": ["data/benchmarks/shapes"]},
        "report": {"cmd": "true", "outs": ["data/report"]},
        **{
            f"{stage}-{model}": {"cmd": "true", "outs": [out.format(model)]}
            for model in ("base", "merged")
            for stage, out in (
                ("sample", "data/samples/{}/shapes"),
                ("answer", "data/answers/{}/shapes.jsonl"),
            )
        },
    }
}


def git(*words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def commit(message: str) -> str:
    subprocess.run(["dvc", "commit", "--force", "--quiet"], check=True)
    git("add", "--all")
    git("commit", "--quiet", "-m", message)
    return git("rev-parse", "HEAD")


@pytest.fixture
def repository(two_commits, tmp_path, monkeypatch):
    made, first, second = two_commits
    root = shutil.copytree(made, tmp_path / "repository", symlinks=True)
    monkeypatch.chdir(root)
    return root, first, second


@pytest.fixture(scope="module")
def two_commits(tmp_path_factory):
    """Two commits of one run; in the second merged draws as base does, and one setting is another."""
    root = tmp_path_factory.mktemp("runs")
    with chdir(root):
        return root, *committed_twice(root)


def committed_twice(root: Path) -> tuple[str, str]:
    drawn_and_judged(root / "data")
    shutil.rmtree(root / "data/images")
    shutil.copy(ROOT / "params.yaml", root)
    (root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    write_json(root / "metrics/eval.json", made(0.02))
    git("init", "--quiet")
    subprocess.run(["dvc", "init", "--quiet"], check=True)
    Path("data/report").mkdir()
    Path("data/report/index.html").write_text('<p title="a">first\'s own</p>')
    first = commit("first")
    for what in ("answers/{}/shapes.jsonl", "samples/{}/shapes"):
        base, merged = (root / "data" / what.format(model) for model in ("base", "merged"))
        shutil.rmtree(merged) if merged.is_dir() else merged.unlink()
        (shutil.copytree if base.is_dir() else shutil.copy)(base, merged)
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("rouge_l: 0.8", "rouge_l: 0.7"))
    write_json(root / "metrics/eval.json", made(0.0))
    Path("data/report/index.html").write_text("<p>second's own</p>")
    second = commit("second")
    git("branch", "other", second)
    git("update-ref", "refs/exps/aa/bb/steps-half-0123456789", first)
    return first, second


def made(gain: float) -> dict:
    found = {"mean": gain, "low": gain - 0.01, "high": gain + 0.01}
    return summary(n_prompts=5, gains={"merged over base": found})


def shown(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["report", *words])
    command.main()
    assert capsys.readouterr().out == "report.html\n"
    return Path("report.html").read_text()


def items(page: str) -> dict:
    return json.loads(re.search(r'id="items">(.*?)</script>', page)[1])


def test_runs_stand_side_by_side_with_what_differs(repository, monkeypatch, capsys):
    _, first, second = repository
    page = shown(monkeypatch, capsys, "steps-half-0123456789", "other")
    assert first[:10] in page and second[:10] in page
    text = " ".join(re.sub(r"<[^>]*>", " ", page.partition('<section id="all">')[0]).split())
    assert "filter.rouge_l 0.8 0.7" in text and "filter.keep" not in text
    # merged gains 1/5 of c0's image, 1/4 of c2's and loses o0's whole one of two images each: what the second lacks.
    assert re.search(
        r"other -5\.00 \[[^]]*\] \+0\.00 \[-1\.00, \+1\.00\] 62\.10 \[59\.10, 65\.10\] merged", text
    )
    found = items(page)
    assert found["models"] == ["base", "steps-half-0123456789: merged", "other: merged"]
    assert found["items"][0]["scores"] == [0, 1, 0]


def test_commits_and_times_are_shown_where_mlflow_knows_them(repository, monkeypatch, capsys):
    """Of an experiment by its name, of a commit by the one before it and its params, of the workspace by HEAD's."""
    root, first, second = repository
    for name in ("SELMA_TRACKING", "DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "_start_recorder", lambda: None)
    params = (root / "params.yaml").read_text()
    for stage, run, head in (
        ("expert", "steps-half-0123456789", first),
        ("merge", None, first),
        ("rate", None, second),
    ):
        git("checkout", "--quiet", "--detach", head)
        (root / "params.yaml").write_text(params)  # edited at `first`, and committed with what it made
        monkeypatch.setenv("DVC_EXP_NAME", run) if run else monkeypatch.delenv("DVC_EXP_NAME", raising=False)
        with tracking.stage_run(f"{stage}@{head[:4]}"):
            pass
        git("checkout", "--quiet", "--", "params.yaml")
    recorder.record(root, linger=0)
    page = shown(monkeypatch, capsys, "steps-half-0123456789", "other", "workspace")
    text = " ".join(re.sub(r"<[^>]*>", " ", page.partition('<section id="settings">')[0]).split())
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    for name, commit in (("steps-half-0123456789", first[:10]), ("other", second[:10])):
        assert re.search(rf"{name} {commit} {when} {when} 1, \d+ s", text)
    assert re.search(rf"workspace - - {when} 1, \d+ s", text)
    table = page.partition("<summary>Seconds of each stage</summary>")[2].partition("</table>")[0]
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", table)
    }
    ran = {stage: [cell != "-" for cell in cells] for stage, cells in rows.items()}
    assert ran == {
        f"expert@{first[:4]}": [True, False, False],
        f"merge@{first[:4]}": [False, True, False],
        f"rate@{second[:4]}": [False, False, True],
    }


def test_without_a_store_no_times_are_shown_and_none_is_made(repository, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    page = shown(monkeypatch, capsys, "other")
    assert "Seconds of each stage" not in page and not Path("mlflow.db").exists()


def test_a_store_that_does_not_answer_costs_a_note_alone(repository, monkeypatch, capsys):
    Path("mlflow.db").write_text("no database at all")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("sys.argv", ["report", "other"])
    command.main()
    said = capsys.readouterr()
    assert said.out == "report.html\n" and said.err.startswith("note: no times from MLflow: ")
    assert "Traceback" not in said.err


def test_each_runs_own_page_stands_beside_the_others(repository, monkeypatch, capsys):
    page = shown(monkeypatch, capsys, "steps-half-0123456789", "other", "workspace")
    frames = re.findall(r'<iframe title="report of (.*?)" srcdoc="(.*?)">', page)
    assert [(name, html.unescape(text)) for name, text in frames] == [
        ("steps-half-0123456789", '<p title="a">first\'s own</p>'),
        ("other", "<p>second's own</p>"),
        ("workspace", "<p>second's own</p>"),
    ]


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_and_its_contents_lead_to_every_part(
    repository, monkeypatch, capsys, browser, scheme
):
    shown(monkeypatch, capsys, *repository[1:])
    window = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    window.on("pageerror", lambda error: pytest.fail(str(error)))
    window.goto(Path("report.html").absolute().as_uri())
    assert window.evaluate("document.documentElement.scrollWidth") == 390
    links = window.locator("nav a").all()
    targets = [link.get_attribute("href") for link in links]
    assert targets == ["#runs", "#ran", "#settings", "#reports", "#all"]
    for link, target in zip(links, targets, strict=True):
        link.click()
        assert window.locator(target).count() == 1 and window.url.endswith(target)
    paper = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.removeprefix("rgb(").rstrip(")").split(","))) > 380) == (scheme == "light")


@needs_browser
def test_a_part_that_is_chosen_is_shown_in_all_reports(tmp_path, browser):
    long = "<p style='height: 3000px'></p>"
    own = f"<nav><a href='#far'>Far</a></nav>{long}<h2 id='far'>Far</h2>{long}"
    page = browser.new_page(viewport={"width": 390, "height": 800})
    frames = "".join(f'<iframe srcdoc="{html.escape(own)}"></iframe>' for _ in range(2))
    page.set_content(
        f'<section id="reports"><div id="parts"></div>{frames}</section><script>{script("runs.js")}</script>'
    )
    page.get_by_role("button", name="Far").click()
    tops = [
        frame.evaluate("document.getElementById('far').getBoundingClientRect().top")
        for frame in page.frames[1:]
    ]
    assert len(tops) == 2 and all(abs(top) < 1 for top in tops)
    assert page.evaluate("scrollY") == 0
    page.close()


def test_a_report_that_is_no_text_is_one_line(repository, monkeypatch, capsys):
    Path("data/report/index.html").write_bytes(b"\xff\xfe")
    assert "data/report/index.html" in refused(monkeypatch, capsys, "workspace")


def test_a_run_without_a_report_is_compared_all_the_same(repository, monkeypatch, capsys):
    root, _, _ = repository
    shutil.rmtree(root / "data/report")
    assert "Each run's own report" not in shown(monkeypatch, capsys, "workspace")


def test_a_report_that_is_not_in_the_cache_costs_a_note_alone(repository, monkeypatch, capsys):
    root, first, _ = repository
    lock = yaml.safe_load(subprocess.check_output(["git", "show", f"{first}:dvc.lock"]))
    digest = lock["stages"]["report"]["outs"][0]["md5"]
    for file in (root / ".dvc/cache/files/md5" / digest[:2]).glob(f"{digest[2:]}*"):
        file.unlink()
    monkeypatch.setattr("sys.argv", ["report", first[:12], "other"])
    command.main()
    assert (
        capsys.readouterr().err
        == f"note: {first[:12]}: its own report is not in DVC's cache; the page is without it\n"
    )
    assert f"so not here: {first[:12]}." in Path("report.html").read_text()
    assert re.findall(r'<iframe title="report of (.*?)"', Path("report.html").read_text()) == ["other"]


def test_what_lies_here_is_the_run_workspace(repository, monkeypatch, capsys):
    _, first, _ = repository
    page = shown(monkeypatch, capsys, first[:12], "workspace")
    assert items(page)["models"] == ["base", f"{first[:12]}: merged", "workspace: merged"]


def test_a_run_examined_otherwise_is_refused(repository, monkeypatch, capsys):
    root, first, _ = repository
    (root / "metrics/eval.json").unlink()
    other = made(0.0)
    other["drawing"]["guidance"] = 3.0
    write_json(root / "metrics/eval.json", other)
    assert "workspace: its drawing is" in refused(monkeypatch, capsys, first, "workspace")


def refused(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["report", *words])
    with pytest.raises(SystemExit) as left:
        command.main()
    error = capsys.readouterr().err
    assert (left.value.code, error.count("\n")) == (2, 1) and not Path("report.html").exists()
    return error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nobody"], "nobody: no commit, branch, tag or experiment of that name"),
        (["--out=x.pdf", "HEAD"], "--out: x.pdf; allowed: a file that ends in .html"),
        (["HEAD", "HEAD"], "REV: one is named twice"),
        (["HEAD", "--out", "data.html/x.html"], "data.html"),
    ],
)
def test_bad_input_is_one_line(repository, monkeypatch, capsys, words, says):
    Path("data.html").write_text("")
    assert says in refused(monkeypatch, capsys, *words)


def test_images_that_are_not_in_the_cache_are_named(repository, monkeypatch, capsys):
    root, first, _ = repository
    shutil.rmtree(root / ".dvc/cache")
    error = refused(monkeypatch, capsys, first)
    assert "dvc get" in error and "no reason given" not in error and "`dvc pull -r starter`" in error


def test_settings_that_differ_are_found_at_any_depth():
    class Made:
        def __init__(self, params):
            self.params = params

    runs = [Made({"a": {"b": 1, "c": [1, 2]}, "d": 1}), Made({"a": {"b": 1.0, "c": [1, 2]}, "e": None})]
    assert differing(runs) == [
        {"key": "a.b", "cells": ["1", "1.0"]},
        {"key": "d", "cells": ["1", "-"]},
    ]
