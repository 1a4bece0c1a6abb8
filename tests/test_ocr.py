"""The OCR judge: what a prompt quotes, how near what was read is to it, and rendered text that it really reads."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.judging.judge import load_judge, load_scorer
from selma.runtime.places import JUDGE_CARD, JUDGES
from selma.variants.judges import ocr


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a shop sign that says "OPEN"', ["OPEN"]),
        ("a shop sign that says “Open now”, at night", ["Open now"]),
        ("ein Schild „Offen“ und «Ouvert»", ["Offen", "Ouvert"]),
        ("a dog's bowl that says 'REX'", ["REX"]),
        ("a mug with 'Don't panic' on it", ["Don't panic"]),
        ("a mug with ‘World’s best’ on it", ["World’s best"]),
        ('the words "one" and "two"', ["one", "two"]),
        ("a dog's bowl on the cat's mat", []),
        ('an empty sign " "', []),
    ],
)
def test_what_a_prompt_asks_for_stands_in_quotes(prompt, texts):
    assert ocr.asked(prompt) == texts


@pytest.mark.parametrize(
    ("texts", "lines", "score"),
    [
        (["OPEN"], ["open"], 1.0),
        (["Happy Birthday, Anna!"], ["HappyBirthday", "Anna"], 1.0),  # over two lines
        (["OPEN"], ["OPEM"], 0.75),
        (["OPEN"], ["closed", "OPEN", "24 h"], 1.0),
        (["OPEN"], [], 0.0),
        (["OPEN", "24 h"], ["OPEN"], 0.5),
        (["?!"], ["? !"], 1.0),
    ],
)
def test_the_score_is_the_edit_similarity_to_what_is_nearest(texts, lines, score):
    assert ocr.similarity(texts, lines) == pytest.approx(score)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3), st.lists(st.text(), max_size=6))
def test_it_lies_between_0_and_1_and_is_1_for_what_is_there(texts, lines):
    assert 0 <= ocr.similarity(texts, lines) <= 1
    texts = [text for text in texts if text.strip()]
    if texts:
        assert ocr.similarity(texts, [*lines, *texts]) == pytest.approx(1)


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The judge's folder, as stage judge writes it, in the current project."""
    monkeypatch.chdir(tmp_path)
    write_json(JUDGES / "ocr" / JUDGE_CARD, {"kind": "ocr"})
    return JUDGES / "ocr"


def rendered(text: str, size: int = 48) -> Image.Image:
    image = Image.new("RGB", (512, 256), "white")
    ImageDraw.Draw(image).text((30, 70), text, fill=(20, 40, 120), font=ImageFont.load_default(size))
    return image


def test_rendered_text_is_read(judge):
    pytest.importorskip("rapidocr_onnxruntime", reason="pip install -r requirements-ocr.txt")
    scorer = load_scorer("ocr")
    assert scorer.score(rendered("OPEN"), 'a sign that says "OPEN"') == 1
    assert scorer.score(rendered("Happy\nBirthday"), 'a cake with "Happy Birthday"') == 1
    near = scorer.score(rendered("OPEM"), 'a sign that says "OPEN"')
    other = scorer.score(rendered("Butter"), 'a sign that says "OPEN"')
    assert other < near == 0.75
    assert scorer.score(Image.new("RGB", (64, 64), "white"), 'a sign that says "OPEN"') == 0
    assert scorer.score(Image.new("RGB", (64, 64), "white"), "a red circle") == 1
    assert scorer.score(rendered("OPEN"), "a red circle") == 1, "nothing was asked for"


def test_without_the_package_it_is_one_line_that_says_what_to_install(judge, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith("rapidocr"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError) as error:
        load_scorer("ocr")
    assert str(error.value) == (
        "a judge of kind ocr needs the package rapidocr-onnxruntime, which is not there "
        "(No module named 'rapidocr_onnxruntime'): pip install -r requirements-ocr.txt"
    )


def test_it_answers_no_questions(judge):
    with pytest.raises(UserError, match="judge 'ocr' is of kind ocr, which answers no questions"):
        load_judge("ocr")
