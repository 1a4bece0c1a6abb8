"""Free answers become choices: literally, after normalisation, else by the nearest sentence embedding."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selma import score
from selma.ground.errors import UserError
from selma.judging.choices import choose, chooser, match, nearest, normal, yes_or_no
from tests.test_sources import tifa_question, write

ANIMALS = ["dog", "cat", "polar bear"]
LETTERS = st.text("ab .?", min_size=1, max_size=6)


def embed(texts):
    """Counts of letters, of unit length: 'bears' lies near 'polar bear'."""
    counts = np.array(
        [[text.lower().count(letter) for letter in "abcdefghijklmnoprstuw"] for text in texts], float
    )
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("dog", "dog"),
        (" Dog.", "dog"),
        ("POLAR  bear!", "polar bear"),
        ("bear", None),
        ("", None),
        ("?", None),
    ],
)
def test_an_answer_says_a_choice_in_any_case_and_punctuation(answer, choice):
    assert match(answer, ANIMALS) == choice


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        *(
            (said, "yes")
            for said in ("yes", "Yes.", "YES!", "Yes, there are two cats.", "yes it is", "True", "TRUE")
        ),
        *(
            (said, "yes")
            for said in ("1", "1.0", "1.", "y", " Y ", "'yes'", "**Yes**, two", "- yes", "Answer: yes")
        ),
        *(
            (said, "no")
            for said in ("no", "No, they are not", "no bus", "False", "0", "0.0", "n", "The answer is no.")
        ),
        *(
            (said, None)
            for said in ("", "maybe", "nothing", "none", "N/A", "11", "10", "-1", "yesterday", "not one")
        ),
        *((said, None) for said in ("yes or no", "Yes/No", "two", "there are", "nope", "1 cat", "０")),
    ],
)
def test_a_free_answer_to_yes_or_no_is_what_it_begins_with(answer, means):
    assert yes_or_no(answer) == means
    assert match(answer, ("yes", "no")) == means
    assert match(answer, ("No", "Yes")) == (means and means.title())
    assert match(answer, ("two", "three")) == (answer if answer == "two" else None)


def test_the_literal_choice_wins_over_one_that_reads_alike():
    assert match("Yes.", ["yes", "Yes."]) == "Yes."
    assert match("YES", ["yes", "Yes."]) == "yes"


def test_another_answer_goes_to_the_nearest_choice():
    assert choose("bears", ANIMALS, embed) == "polar bear"
    assert chooser(embed)("a cat or a cot", ANIMALS) == "cat"
    assert nearest("tac", ["cat", "act"], embed) == "cat"  # a tie: the earlier


@settings(deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=4), LETTERS)
def test_the_answer_is_always_one_of_the_choices_and_a_choice_is_itself(choices, answer):
    def same(texts):
        return np.ones((len(texts), 1))

    assert choose(answer, choices, same) in choices
    assert all(choose(choice, choices, same) == choice for choice in choices)
    assert normal(normal(answer)) == normal(answer)


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory):
    """A random model of all-mpnet-base-v2's classes (MPNetModel, MPNetTokenizer), saved as it is published."""
    import torch
    from transformers import MPNetConfig, MPNetModel, MPNetTokenizer

    folder = tmp_path_factory.mktemp("mpnet")
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "dog", "cat", "polar", "bear", "brown", "a"]
    tokenizer = MPNetTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=16)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MPNetModel(
            MPNetConfig(
                vocab_size=len(words),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=20,
                initializer_range=0.5,
            )
        ).save_pretrained(folder)
    return folder


def test_embeddings_are_the_means_over_tokens_without_padding(mpnet):
    import torch
    from transformers import MPNetModel, MPNetTokenizer

    from selma.judging.embedding import SentenceEmbedder

    texts = ["dog", "a brown polar bear", "cat " * 40]  # the last is cut at the tokenizer's 16 tokens
    found = SentenceEmbedder(mpnet)(texts)
    assert found.shape == (3, 16) and found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    tokenizer, model = MPNetTokenizer.from_pretrained(mpnet), MPNetModel.from_pretrained(mpnet).eval()
    for text, row in zip(texts, found, strict=True):  # one by one: no padding at all
        with torch.no_grad():
            tokens = model(**tokenizer(text, truncation=True, return_tensors="pt")).last_hidden_state[0]
        mean = tokens.mean(dim=0).numpy()
        assert row == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert abs(float(found[0] @ found[1])) < 0.999


def test_the_command_maps_free_answers_by_a_folder(mpnet, tmp_path, monkeypatch, capsys):
    from selma.judging.embedding import SentenceEmbedder

    said, *offered = SentenceEmbedder(mpnet)(["a brown bear", *ANIMALS])
    closest = ANIMALS[int(np.argmax([said @ choice for choice in offered]))]
    details = {"coco_1": {}}
    for animal in ANIMALS:  # a question for which each is the answer, and its name the type
        row = tifa_question(question=animal, choices=ANIMALS, answer=animal, element_type=animal)
        details["coco_1"][animal] = {**row, "free_form_vqa": "a brown bear"}
    write(tmp_path / "r.json", {"question_details": details})
    monkeypatch.setattr("sys.argv", ["score", "tifa", str(tmp_path / "r.json"), "--embedder", str(mpnet)])
    score.main()
    by_type = json.loads(capsys.readouterr().out)["by_type"]
    assert {name: figure["mean"] for name, figure in by_type.items()} == {
        animal: 100.0 * (animal == closest) for animal in ANIMALS
    }


def test_a_folder_without_a_model_is_named(tmp_path):
    from selma.judging.embedding import SentenceEmbedder

    with pytest.raises(UserError, match=r"has no config\.json"):
        SentenceEmbedder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mpnet"}')
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="cannot be opened"):
        SentenceEmbedder(tmp_path)
