"""VQA judges on tiny random models of the real classes: words into choices, P(yes), VQAScore, errors."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import normalizers

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.ground.items import Item, Question
from selma.judging.groups import LocalModel, Said
from selma.judging.judge import Answer, load_judge
from selma.judging.many import ask_all
from selma.judging.vqa import VQASCORE, VqaJudge, instruct, yes_no_tokens
from selma.runtime import variants
from selma.runtime.places import JUDGE_CARD, JUDGES
from tests.judge_models import ID, MAKERS, tokenizer

QUESTIONS = [
    Question("1", "Is it red ?", ("yes", "no"), "yes", (), "color"),
    Question("2", "Is there a circle , or a blue circle , or two ?", ("yes", "no"), "yes", (), "object"),
    Question("3", "Is there a circle ?", ("Yes", "No"), "Yes", (), "object"),
]
COLOR = Question("4", "What is the color ?", ("red", "dark blue", "blue"), "red", (), "color")


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_noise((20, 12), 80).convert("RGB")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind, as stages/judge.py leaves it."""
    root = tmp_path_factory.mktemp("judges")
    made = {}
    for name, make in MAKERS.items():
        made[name] = make(root / name.replace(" ", "-"))
        write_json(made[name] / JUDGE_CARD, {"kind": name.split()[0]})
    return made


@pytest.fixture(params=MAKERS)
def judge(request, folders, tmp_path, monkeypatch) -> VqaJudge:
    monkeypatch.chdir(tmp_path)
    JUDGES.mkdir(parents=True)
    (JUDGES / "mine").symlink_to(folders[request.param])
    return load_judge("mine", "cpu")


@pytest.mark.parametrize("kind", variants.names("judges"))
def test_a_kind_that_says_it_answers_is_one_that_params_check_by(kind):
    """What params.yaml is checked by, read without importing the file, is what the file holds."""
    module = variants.load("judges", kind, "kind")
    assert variants.constants("judges", kind)["ANSWERS"] is module.ANSWERS
    assert set(module.NEEDS) | set(module.TAKES) <= {"weights", "tokenizer", "matcher", "endpoint"}


def test_answers_are_choices_with_a_probability_and_do_not_depend_on_each_other(judge, image):
    together = judge.answer(image, QUESTIONS)
    alone = [judge.answer(image, [question])[0] for question in QUESTIONS]
    assert [answer.answer for answer in together] == [answer.answer for answer in alone]
    for answer, other, question in zip(together, alone, QUESTIONS, strict=True):
        assert answer.answer in question.choices
        assert 0 < answer.p_yes < 1 and answer.p_yes == pytest.approx(other.p_yes, abs=1e-5)
    assert len({answer.p_yes for answer in together}) == 3, "the question makes no difference"


def test_the_image_makes_a_difference(judge, image):
    other = Image.new("RGB", (20, 12), "red")
    assert judge.answer(image, QUESTIONS)[0].p_yes != judge.answer(other, QUESTIONS)[0].p_yes


def test_p_yes_and_vqascore_are_read_off_the_first_word_of_transformers_own_generate(judge, image):
    own = judge._model
    text = judge._prompt(QUESTIONS[0])
    for asked, got in (
        (text, judge.answer(image, QUESTIONS[:1])[0].p_yes),
        (VQASCORE.format("a red circle"), judge.score(image, "a red circle")),
    ):
        if hasattr(own._processor, "chat_template") and own._processor.chat_template:
            said = asked if asked != text else instruct(QUESTIONS[0])
            asked = f"<image> {said} Answer :"
        inputs = own._processor(images=image, text=asked, return_tensors="pt")
        output = own._model.generate(
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        odds = output.logits[0][0].softmax(dim=-1)
        yes, no = (sum(odds[ID[word]].item() for word in words) for words in (("yes", "Yes"), ("no", "No")))
        wanted = yes if asked != text and "figure" in asked else yes / (yes + no)
        assert got == pytest.approx(wanted, abs=1e-5)


def test_a_folder_without_a_weight_a_broken_one_and_one_with_code_are_refused(folders, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    folder = JUDGES / "blip"
    shutil.copytree(folders["blip_vqa"], folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    dropped = "vision_model.post_layernorm.weight"
    save_file({k: v for k, v in tensors.items() if k != dropped}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"judges/blip: 1 weights are missing.*{dropped}"):
        load_judge("blip", "cpu")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="judges/blip: this judge cannot be opened"):
        load_judge("blip", "cpu")
    weights.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="judges/blip: this judge cannot be opened"):
        load_judge("blip", "cpu")


def test_unknown_names_kinds_and_cards_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"judge 'owl': models/judges/owl/judge\.json is missing"):
        load_judge("owl")
    for name, card in (("pick", {"kind": "pickscore"}), ("odd", ["kind"])):
        write_json(JUDGES / name / JUDGE_CARD, card)
    with pytest.raises(UserError, match="'pick' is of kind pickscore, which answers no questions"):
        load_judge("pick")
    with pytest.raises(
        UserError, match=r"odd/judge\.json: the file is \['kind'\]; it must be a mapping of kind"
    ):
        load_judge("odd")


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ({"kind": ["blip2"]}, "kind is ['blip2']"),
        ({"kind": 3}, "kind is 3"),
        ({}, "missing key kind"),
        ({"kind": "../blip2"}, "kind is '../blip2'; it must be one of"),
        ({"kind": "endpoint"}, "has no endpoint; run stage judge@odd again"),
        ({"kind": "endpoint", "endpoint": "http://x"}, "endpoint is 'http://x'"),
        (
            {"kind": "endpoint", "endpoint": {"model": 3, "base_url": None, "key_env": None}},
            "endpoint.model is 3",
        ),
        ({"kind": "endpoint", "endpoint": {"model": "x"}}, "missing key endpoint.base_url"),
    ],
)
def test_a_judge_json_that_says_something_impossible_is_named(tmp_path, monkeypatch, card, named):
    monkeypatch.chdir(tmp_path)
    write_json(JUDGES / "odd" / JUDGE_CARD, card)
    with pytest.raises(UserError) as caught:
        load_judge("odd")
    assert named in str(caught.value) and "models/judges/odd/judge.json" in str(caught.value)


@pytest.mark.parametrize("content", ["[1, {}]", "null", "{}", ""])
@pytest.mark.parametrize("kind", ["blip_vqa", "chat_vlm"])
def test_a_config_of_another_shape_is_one_line(folders, tmp_path, monkeypatch, image, kind, content):
    monkeypatch.chdir(tmp_path)
    files = [file.name for file in folders[kind].glob("*.json") if file.name != JUDGE_CARD]
    assert "config.json" in files and "tokenizer.json" in files
    for number, file in enumerate(sorted(files)):
        folder = shutil.copytree(folders[kind], JUDGES / f"odd{number}")
        (folder / file).write_text(content)
        try:
            load_judge(f"odd{number}", "cpu")
        except UserError as error:
            assert f"odd{number}" in str(error)
        else:
            assert file not in ("config.json", "tokenizer.json")


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is here")
def test_a_processor_that_needs_torchvision_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = JUDGES / "qwen"
    write_json(folder / JUDGE_CARD, {"kind": "chat_vlm"})
    write_json(folder / "config.json", {"model_type": "qwen2_vl"})
    write_json(folder / "preprocessor_config.json", {"processor_class": "Qwen2VLProcessor"})
    tokenizer().save_pretrained(folder)
    with pytest.raises(
        UserError, match=r"qwen: this judge cannot be opened \(.*requires.*[Tt]orchvision"
    ) as caught:
        load_judge("qwen", "cpu")
    assert "\n" not in str(caught.value)


def test_blip2_is_asked_as_tifas_own_scorer_asks_it(folders, tmp_path, monkeypatch):
    """The text of class BLIP2 in TIFA's vqa_models.py for a question with choices."""
    monkeypatch.chdir(tmp_path)
    JUDGES.mkdir(parents=True)
    (JUDGES / "mine").symlink_to(folders["blip2"])
    asked = "Answer the multiple-choice question. Question: What is the color ? Choices: red, dark blue, blue Answer:"
    assert load_judge("mine", "cpu")._prompt(COLOR) == asked


def test_a_judge_whose_probabilities_are_not_finite_stops(judge, image):
    for parameter in judge._model._model.parameters():
        parameter.data *= torch.nan
    with pytest.raises(UserError, match="the judge's probabilities are not finite"):
        judge.answer(image, QUESTIONS)
    with pytest.raises(UserError, match="the judge's probabilities are not finite"):
        judge.score(image, "a red circle")


@pytest.mark.parametrize("p_yes", [float("nan"), float("inf"), -0.5, 7.0])
def test_a_probability_that_is_none_names_its_question(p_yes):
    class Broken:
        def answer(self, image, questions):
            return [Answer("yes", p_yes) for _ in questions]

    item = Item("item-1", "a circle", "s", "t", (QUESTIONS[0],))
    with pytest.raises(UserError, match=r"item-1: the judge's P\(yes\) to 'Is it red \?' is"):
        list(ask_all(Broken(), [(item, 0, Image.new("RGB", (4, 4)))]))


# Words into choices -----------------------------------------------------------------------------


class Parrot(LocalModel):
    """Says what it is told, with the given probabilities of yes and no."""

    def __init__(self, text: str, yes: float = 0.0, no: float = 0.0) -> None:
        self.said = Said(text, yes, no)

    def reply(self, images, texts, batch):
        return [self.said] * len(texts)


def settle(question: Question, *said, match=None) -> Answer:
    return VqaJudge(Parrot(*said), instruct, match).answer(Image.new("RGB", (4, 4)), [question])[0]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (("yes", 0.6, 0.2), Answer("Yes", 0.75)),
        ((" Yes, there is one.", 0.6, 0.2), Answer("Yes", 0.75)),
        (("NO", 0.2, 0.6), Answer("No", 0.25)),
        (("it is a circle", 0.3, 0.1), Answer("Yes", 0.75)),
        (("it is a circle", 0.1, 0.3), Answer("No", 0.25)),
        (("nothing of it", 0.0, 0.0), Answer("Yes", 0.5)),
        (("yesterday", 0.1, 0.3), Answer("No", 0.25)),
    ],
)
def test_words_that_begin_with_yes_or_no_are_that_and_others_go_by_the_probability(said, answer):
    got = settle(QUESTIONS[2], *said)
    assert (got.answer, pytest.approx(got.p_yes)) == (answer.answer, answer.p_yes)


def test_free_words_go_to_the_choice_they_say_else_to_the_matcher():
    assert settle(COLOR, "Red.") == Answer("red", None)
    assert settle(COLOR, "a red one") == Answer("red", None)
    assert settle(COLOR, "crimson", match=lambda text, choices: choices[0]) == Answer("red", None)
    with pytest.raises(UserError, match="says 'crimson' to 'What is the color"):
        settle(COLOR, "crimson")
    with pytest.raises(UserError, match="not one of red, dark blue, blue"):
        settle(COLOR, "red and blue")


def test_instructions_name_the_choices():
    assert instruct(QUESTIONS[0]) == "Is it red ? Please answer yes or no."
    assert instruct(COLOR).endswith(
        "Choices: red, dark blue, blue. Please answer with one of the choices only."
    )


def test_a_row_without_yes_among_the_choices_has_no_probability():
    item = Item("i", "a circle", "s", "t", (COLOR,))
    ((row,),) = ask_all(VqaJudge(Parrot("blue"), instruct), [(item, 1, Image.new("RGB", (4, 4)))])
    assert row == {"item": "i", "k": 1, "question": "4", "answer": "blue", "p_yes": None, "expected": "red"}


def test_tokens_of_yes_and_no_and_a_tokenizer_that_has_none():
    own = tokenizer()
    assert yes_no_tokens(own, Path("here")) == ([ID["yes"], ID["Yes"]], [ID["no"], ID["No"]])
    own.backend_tokenizer.normalizer = normalizers.Prepend("x")
    with pytest.raises(UserError, match="here: this tokenizer has no tokens that tell yes from no"):
        yes_no_tokens(own, Path("here"))


def test_a_matcher_in_the_folder_maps_free_words(folders, tmp_path, monkeypatch, image):
    """The sentence embedding is loaded from the judge's own folder."""
    from selma.judging import embedding

    monkeypatch.chdir(tmp_path)
    folder = JUDGES / "blip"
    shutil.copytree(folders["blip_vqa"], folder)
    (folder / "matcher").mkdir()
    opened = []

    class Embedder:
        def __init__(self, path):
            opened.append(path)

        def __call__(self, texts):
            import numpy as np

            return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    monkeypatch.setattr(embedding, "SentenceEmbedder", Embedder)
    assert load_judge("blip", "cpu").answer(image, [COLOR])[0].answer in COLOR.choices
    assert opened == [folder / "matcher"]
