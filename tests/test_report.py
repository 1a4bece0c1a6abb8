"""Charts, the short table, the grid and the page: what a reader sees, and that nothing breaks out of it."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from selma import table as table_command
from selma.ground.errors import UserError
from selma.ground.files import write_csv, write_json
from selma.ground.items import Item, Question
from selma.ground.pairs import write_image
from selma.reporting import charts, report, sheets, table

quick = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
HOSTILE = "</td><script>alert('x')</script>"
GAIN = {"mean": 0.021, "low": 0.005, "high": 0.037}
NONE = {"mean": 0.004, "low": -0.01, "high": 0.018}


def scores(mean):
    return {"mean": mean, "low": mean - 0.03, "high": mean + 0.03, "micro": 0.6, "no_dependencies": 0.6}


def summary(**changes):
    return {
        "benchmark": "shapes",
        "judge": "oracle",
        "drawing": {"scheduler": "ddim", "steps": 12, "guidance": 1.35, "resolution": 64},
        "n_prompts": 300,
        "images_per_prompt": 2,
        "models": {
            "base": scores(0.6),
            "count": scores(0.6123),
            "single": scores(0.617),
            "merged": scores(0.621),
        },
        "gains": {"merged over base": GAIN, "merged over single": NONE},
        **changes,
    }


@pytest.fixture
def run(tmp_path):
    """Metrics and grid folders of a made-up run whose texts try to break out of the page."""
    metrics, pictures = tmp_path / "metrics", tmp_path / "grid"
    write_json(metrics / "eval.json", summary())
    write_json(metrics / "benchmarks.json", {})
    write_json(metrics / "preferences.json", {})
    for file, part, value in (("by_skill", "skill", "count"), ("by_category", "category", "color")):
        rows = [
            {"model": model, part: value, "score": found["mean"]}
            for model, found in summary()["models"].items()
        ]
        write_csv(metrics / f"{file}.csv", rows, ["model", part, "score"])
    write_json(metrics / "select/count.json", {"policy": "last", "chosen": 300, "scores": {}})
    curve = [{"step": step, "loss": 1 / step} for step in range(1, 101)]
    write_csv(metrics / "loss/count.csv", curve, ["step", "loss"])
    write_json(metrics / "filter/count.json", {"candidates": 6, "kept": 3, "dropped": {"too_long": 3}})
    merge = {
        "operator": "delta_mean",
        "experts": ["count", "tags"],
        "rank": 32,
        "cosine": {"count|tags": 0.125},
    }
    write_json(metrics / "merge/merged.json", merge)
    question = {"id": "1", "question": HOSTILE, "expected": "yes"}
    questions = [
        {**question, "answers": {"base": "no", "merged": "yes"}, "scores": {"base": 0, "merged": 1}},
        {**question, "answers": {"base": "yes", "merged": None}, "scores": {"base": 0, "merged": 0}},
    ]
    images = {"base": "base/a.png", "merged": "merged/a.png"}
    for file in images.values():
        write_image(pictures / file, Image.new("RGB", (8, 8), "red"))
    example = {"id": "a", "skill": "count", "prompt": f'"{HOSTILE}', "images": images, "questions": questions}
    write_json(pictures / "examples.json", [example])
    return metrics, pictures


def page(run, **changes):
    options = {
        "profile": HOSTILE,
        "skills": ["count"],
        "experts": ["count"],
        "merges": ["merged"],
        "learned": {},
        "settings": {"merge": {"operator": HOSTILE, "experts": ("a", "b")}},
    }
    return report.render(*run, **(options | changes))


class Tags(HTMLParser):
    """Checks that every tag is closed in its turn, and keeps names, links and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_self_contained_and_escaped(run):
    html = page(run)
    tags = Tags(html)
    assert not {"script", "link", "iframe"} & set(tags.tags)
    pictures = [link for link in tags.links if not link.startswith("#")]
    assert pictures and all(link.startswith("data:image/png;base64,") for link in pictures)
    assert not re.search(r"url\(|@import", html)
    assert tags.text.count("alert('x')") >= 4  # shown as text: profile, prompt, questions, setting


def test_the_page_says_what_the_numbers_say(run):
    text = " ".join(Tags(page(run)).text.split())
    assert (
        "merged compared with base: +2.10 points, 95% interval +0.50 to +3.70; in this run, over prompts, the "
        "interval lies above" in text
    )
    assert "with single: +0.40 points, 95% interval -1.00 to +1.80; the interval includes zero" in text
    assert "ddim, 12 steps, guidance 1.35, 64 px" in text
    for shown in (
        "62.10",
        "[59.10, 65.10]",
        "61.23",
        "0.125",
        "not scored",
        "dropped too long",
        "delta_mean",
    ):
        assert shown in text
    assert "\u2717 no" in text and "\u2713 yes" in text and "\u2205 yes" in text
    assert "\u2717 no answer" in text


def test_a_gain_whose_interval_includes_0_is_no_difference(run):
    write_json(run[0] / "eval.json", summary(gains={"merged over base": NONE}))
    html = page(run)
    assert re.search(r'class="tile none">gain, merged over base<b>\+0\.40</b>', html)
    assert "the interval includes zero, so no difference is seen" in html
    loss = {"mean": -0.03, "low": -0.05, "high": -0.01}
    write_json(run[0] / "eval.json", summary(gains={"merged over base": loss}))
    assert "the interval lies below zero: merged is worse" in page(run)


def test_further_benchmarks_and_preferences_have_a_section_only_if_there_are_any(run):
    assert "Further benchmarks" not in page(run)
    preferred = {
        "models": {
            name: {**scores(mean), "skill": {style: mean for style in ("anime", HOSTILE)}}
            for name, mean in (("base", 0.2512), ("merged", 0.2624))
        },
        "gains": {"merged over base": {"mean": 0.0112, "low": 0.01, "high": 0.0124}},
    }
    write_json(run[0] / "benchmarks.json", {"tifa": summary(gains={"merged over base": NONE})})
    write_json(run[0] / "preferences.json", {"hps": {"pickscore": preferred}})
    html = page(run)
    assert Tags(html).text.count("alert('x')") > 4  # still text
    text = " ".join(re.sub("<[^>]*>", " ", html).split())
    for shown in (
        "Further benchmarks, % faithful model tifa base 60.00 count 61.23 single 61.70 merged 62.10",
        "merged over base +0.40 [-1.00, +1.80]",
        "model hps, pickscore base 0.2512 merged 0.2624 merged over base +0.0112 [+0.0100, +0.0124]",
        "hps, pickscore, by style or skill model anime",
    ):
        assert shown in text


LEARNED = {
    "learner": {
        "algorithm": "nft",
        "start": "models/experts/count",
        "prompts": "data/questions",
        "rewards": {"oracle": 1.0, "solace": 0.5},
        "held_out": ["clip"],
    },
    "lone": {
        "algorithm": "awm",
        "start": "models/backbones/shapes",
        "prompts": "data/questions/count",
        "rewards": {"solace": 1.0},
    },
}


@pytest.fixture
def learned_run(run):
    """The same run with two policies: one that judges reward and that stopped early, one without a judge."""
    folder = run[0] / "policy"
    columns = ["round", "images", "reward", "diversity", "loss", "distance", "dev", "dev_oracle", "dev_clip"]
    curve = [{"round": 0, "images": 0, "dev": 0.25, "dev_oracle": 0.4321, "dev_clip": 0.31}]
    curve += [{"round": n, "images": 1152 * n, "reward": n / 10, "diversity": 1} for n in (1, 2, 3)]
    curve[2] |= {"dev": 0.5, "dev_oracle": 0.6789, "dev_clip": 0.22}
    write_csv(folder / "learner.csv", curve, columns)
    told = {"algorithm": "nft", "images": 3456, "chosen": 2, "scores": {"0": 0.25, "2": 0.5}}
    why = f"round 3: alike {HOSTILE}"
    write_json(folder / "learner.json", {**told, "noise": {"0": 0.02, "2": 0.0125}, "stopped": why})
    write_csv(
        folder / "lone.csv",
        [{k: v for k, v in row.items() if k in columns[:6]} for row in curve],
        columns[:6],
    )
    told = {"algorithm": "awm", "images": 3456, "chosen": 3, "scores": {}, "noise": {}, "stopped": None}
    write_json(folder / "lone.json", told)
    return run


def test_policies_have_a_section_only_if_there_are_any(learned_run):
    assert "learned from a judge" not in page(learned_run)
    html = page(learned_run, learned=LEARNED)
    text = " ".join(Tags(html.replace("</td>", " </td>").replace("</th>", " </th>")).text.split())
    for shown in (
        "learner nft models/experts/count data/questions oracle, 0.5 \u00d7 solace 3,456 2 0.5000 0.2500 0.0125",
        "lone awm models/backbones/shapes data/questions/count solace 3,456 3 not scored",
        "learner oracle rewards 0.4321 0.6789 learner clip looks on 0.3100 0.2200",
        "learner stopped early: round 3: alike </td><script>",
    ):
        assert shown in text, shown
    assert "lone stopped early" not in text


def test_a_policys_curves_are_drawn_by_pictures(learned_run):
    """Round 0 draws nothing to reward, and is no point of that curve; of dev scores it is the first."""
    html = page(learned_run, learned=LEARNED)
    for title, points in (("Reward of a round's pictures", [3, 3]), ("Dev score", [2, 0])):
        title = title.replace("'", "&#39;")
        svg = html.split(f"<h3>{title}, by pictures drawn and judged</h3>")[1].split("</svg>")[0] + "</svg>"
        lines = ElementTree.fromstring(svg).findall("polyline")
        assert [len(line.get("points").split()) for line in lines] == points
    assert "<h3>Dev score" not in page(learned_run, learned={"lone": LEARNED["lone"]})


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("learner.json", "{}", "needs"),
        (
            "learner.json",
            '{"algorithm": "nft", "images": 1, "chosen": -1, "scores": {}, "stopped": null}',
            "chosen",
        ),
        ("learner.csv", "round,images\n0,0\n", "has no column reward"),
        ("learner.csv", "round,images,reward\n1,,0.5\n", "line 2: images"),
        ("learner.csv", "round,images,reward,dev_clip\n1,8,0.5,nan\n", "line 2: dev_clip"),
    ],
)
def test_a_malformed_file_of_a_policy_is_one_line(learned_run, file, content, says):
    (learned_run[0] / "policy" / file).write_text(content)
    with pytest.raises(UserError, match=says) as error:
        page(learned_run, learned=LEARNED)
    assert "\n" not in str(error.value) and f"policy/{file}" in str(error.value)


@pytest.mark.parametrize("pair", [("count", "base"), ("base", "merged")])
def test_the_page_leads_with_whatever_pair_params_compare_first(run, pair):
    """No name of a model is special."""
    write_json(run[0] / "eval.json", summary(gains={" over ".join(pair): GAIN}))
    html = page(run)
    assert f"<h2>{pair[0]} compared with {pair[1]}</h2>" in html
    assert f'<tr class="strong"><td>{pair[0]}</td>' in html


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics/eval.json", "[]"),
        ("metrics/eval.json", json.dumps(summary()).replace("0.621", "NaN")),
        ("metrics/eval.json", json.dumps(summary()).replace("0.621", "1e999")),
        ("metrics/eval.json", json.dumps(summary()).replace("0.621", "1e300")),
        ("metrics/eval.json", json.dumps(summary()).replace("0.621", "null")),
        ("metrics/eval.json", json.dumps(summary(n_prompts=True))),
        ("metrics/eval.json", json.dumps(summary(gains={"gone over base": GAIN}))),
        ("metrics/eval.json", "[" * 5000),
        (
            "metrics/filter/count.json",
            '{"candidates": 1, "kept": 1, "dropped": ' + '{"a":' * 900 + "1" + "}" * 901,
        ),
        ("metrics/select/count.json", '{"policy": "last", "chosen": 300, "scores": {"one": 1}}'),
        (
            "metrics/merge/merged.json",
            '{"operator": "x", "experts": ["a", "b"], "rank": 1, "cosine": {"a|b": NaN}}',
        ),
        ("metrics/by_skill.csv", "model,skill,score\n"),
        ("metrics/by_category.csv", ""),
        ("metrics/by_skill.csv", "model,skill,score\nbase,,0.5\n"),
        ("metrics/by_skill.csv", "model,skill,score\nbase,count,0.5\n"),
        ("metrics/by_skill.csv", "model,skill,score\nbase,count,nan\n"),
        ("metrics/loss/count.csv", "step,loss\n1,inf\n"),
        ("metrics/loss/count.csv", "step,loss\n1,1e308\n2,-1e308\n"),
        ("metrics/benchmarks.json", '{"tifa": {}}'),
        ("metrics/merge/merged.json", "{}"),
        ("metrics/by_skill.csv", "model,skill,score\nbase,count,x\n"),
        ("metrics/loss/count.csv", "step,loss\n1,x\n"),
    ],
)
def test_a_malformed_file_is_one_line(run, file, content):
    (run[0].parent / file).write_text(content)
    with pytest.raises(UserError) as error:
        page(run)
    assert "\n" not in str(error.value) and "metrics" in str(error.value)


def test_no_text_of_any_file_breaks_out_of_the_page(run):
    """Every name and text of the files is hostile, as if a remote had been tampered with."""
    metrics, grid = run
    for path in (*metrics.rglob("*.json"), *metrics.glob("by_*.csv"), grid / "examples.json"):
        text = path.read_text()
        for word in (
            "count",
            "color",
            "base",
            "merged",
            "shapes",
            "oracle",
            "ddim",
            "delta_mean",
            "last",
            "too_long",
        ):
            text = re.sub(rf"(?<![/\w]){word}(?![/\w])", f"{word}<b onclick='x'>", text)
        path.write_text(text)
    html = page(run)
    assert "<b onclick" not in html and html.count("&lt;b onclick=") > 30
    Tags(html)


def test_a_picture_outside_the_grid_is_refused(run):
    """data/grid is pulled from a remote."""
    file = run[1] / "examples.json"
    file.write_text(file.read_text().replace("base/a.png", "../../secret.png"))
    with pytest.raises(UserError, match=r"images\.base is '\.\./\.\./secret\.png'; it must be a path inside"):
        page(run)


def test_a_truncated_picture_is_named(run):
    image = run[1] / "merged/a.png"
    image.write_bytes(image.read_bytes()[:30])
    with pytest.raises(UserError, match=r"merged/a\.png"):
        page(run)


# Charts ----------------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
POINTS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20)


@quick
@given(st.dictionaries(st.text('ab<&"é', max_size=5), POINTS, min_size=1, max_size=10))
def test_every_point_of_a_line_lies_inside_the_axes(series):
    svg = ElementTree.fromstring(charts.line_chart(series, "x <&>", "y"))
    lines = svg.findall("polyline")
    assert len(lines) == len(series)
    for line in lines:
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 51.9 <= x <= 408.1 and 11.9 <= y <= 202.1


@quick
@given(st.lists(st.tuples(st.just("a <b>"), st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=12))
def test_a_better_model_stands_to_the_right(rows):
    svg = ElementTree.fromstring(charts.pair_chart(rows, "label", "base", "merged"))
    places = [float(dot.get("cx")) for dot in svg.findall("circle")]
    for (_, base, merged), left, right in zip(rows, places[::2], places[1::2], strict=True):
        assert (right - left) * (merged - base) >= 0
        assert 117.9 <= min(left, right) <= max(left, right) <= 400.1


def test_charts_of_nothing_are_nothing():
    assert charts.line_chart({"a": []}, "x", "y") == charts.pair_chart([], "x", "a", "b") == ""


@quick
@given(POINTS, st.integers(1, 30))
def test_thinning_keeps_few_points_and_the_range(points, at_most):
    thinned = charts.thin(points, at_most)
    assert 1 <= len(thinned) <= at_most
    ys = [y for _, y in points]
    assert all(min(ys) - 1e-6 <= y <= max(ys) + 1e-6 for _, y in thinned)
    if len(points) <= at_most:
        assert thinned == [pytest.approx(point) for point in points]


# The short table -------------------------------------------------------------------------------


def test_the_short_table_in_both_forms(tmp_path, monkeypatch, capsys):
    write_json(tmp_path / "metrics/eval.json", summary())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["table"])
    table_command.main()
    text = capsys.readouterr().out
    for line in (
        r"base +60\.00  \[57\.00, 63\.00\]",
        r"count +61\.23  \[58\.23, 64\.23\]",
        r"single +61\.70  .*",
        r"merged +62\.10  .*",
        r"merged over base +\+2\.10 \[\+0\.50, \+3\.70\]",
        r"merged over single +\+0\.40 \[-1\.00, \+1\.80\]",
    ):
        assert re.search(rf"^{line}$", text, re.M), line
    assert "300 test prompts x 2 images, ddim, 12 steps, guidance 1.35, 64 px." in text

    monkeypatch.setattr(sys, "argv", ["table", "--markdown"])
    table_command.main()
    markdown = [re.sub(" +", " ", line) for line in capsys.readouterr().out.splitlines()]
    assert markdown[0] == "| model | faithfulness, % | 95% interval |"
    assert markdown[2] == "| base | 60.00 | [57.00, 63.00] |"
    assert "| **merged** | **62.10** | **[59.10, 65.10]** |" in markdown
    assert "| **merged over base, points** | **+2.10** | **[+0.50, +3.70]** |" in markdown
    assert "| merged over single, points | +0.40 | [-1.00, +1.80] |" in markdown
    assert (
        any(line.startswith("This run, prompts only") for line in markdown)
        and "This run, prompts only" in text
    )


def test_without_a_run_the_table_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["table"])
    with pytest.raises(SystemExit) as stopped:
        table_command.main()
    assert stopped.value.code == 2
    assert re.fullmatch(r"error: metrics/eval\.json.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    "contents", [[], {"faithfulness": {"base": 0.5}}, {"models": {"base": 0.5}, "gains": {}}]
)
def test_a_table_of_another_file_is_one_line_and_exit_code_2(contents, tmp_path, monkeypatch, capsys):
    write_json(tmp_path / "metrics/eval.json", contents)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["table"])
    with pytest.raises(SystemExit) as stopped:
        table_command.main()
    assert stopped.value.code == 2
    assert re.fullmatch(r"error: metrics/eval\.json: .*(must|needs).*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.02, "gain"), (0, 0.02, "none"), (-0.01, 0, "none"), (-0.02, -0.01, "loss")],
)
def test_an_interval_that_touches_0_is_no_gain(low, high, said):
    assert table.verdict({"mean": (low + high) / 2, "low": low, "high": high}) == said


# The grid --------------------------------------------------------------------------------------


def items(n_per_skill):
    question = (Question("1", "?", ("yes", "no"), "yes", (), "object"),)
    return [
        Item(f"{s}{i}", f"prompt {s} {i}", s, "t", question) for s, n in n_per_skill.items() for i in range(n)
    ]


def test_prompts_are_chosen_per_skill_by_the_seed():
    pool = items({"a": 30, "b": 30, "c": 1})
    chosen = sheets.choose(pool, 2, seed=1)
    assert [item.skill for item in chosen] == ["a", "b", "c", "a", "b"]
    assert len({item.id for item in chosen}) == 5
    assert chosen == sheets.choose(pool, 2, seed=1) != sheets.choose(pool, 2, seed=2)


@pytest.mark.parametrize(
    ("size", "shown"), [((32, 32), (192, 192)), ((80, 80), (160, 160)), ((768, 512), (192, 128))]
)
def test_small_pictures_grow_by_a_whole_factor_and_large_ones_shrink(size, shown):
    cell = sheets.Cell("a prompt", "count", {"base": Image.new("RGB", size, "red")})
    colors = sheets.compose([cell]).getcolors(10**6)
    assert (shown[0] * shown[1], (255, 0, 0)) in colors


def test_base_stands_above_merged():
    cell = sheets.Cell(
        "p",
        "count",
        {"base": Image.new("RGB", (32, 32), "red"), "merged": Image.new("RGB", (32, 32), "blue")},
    )
    sheet = sheets.compose([cell] * 7)
    first = [color for color in (sheet.getpixel((100, y)) for y in range(sheet.height)) if color[1] == 0]
    assert first[0] == (255, 0, 0)
    assert (0, 0, 255) in first


@quick
@given(st.text("ab ", max_size=80), st.integers(20, 300))
def test_captions_keep_their_words_and_their_width(text, width):
    font = ImageFont.load_default(14)
    lines = sheets.wrap(text, font, width)
    assert " ".join(lines).split() == text.split()
    assert all(font.getlength(line) <= width or " " not in line for line in lines)


def test_the_page_template_lies_beside_the_code():
    assert Path(report.__file__).with_name(report.TEMPLATE).is_file()
