"""Pretraining the multimodal embedded backbone: a few steps of all its parts, resumed, saved and opened."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from selma.backbones.multimodal import load_multimodal
from selma.ground.items import Question
from selma.shapes.pretraining import multimodal, optimise, seeing, tokens
from selma.shapes.pretraining.asked import ask
from selma.shapes.pretraining.corpus import make_corpus
from selma.shapes.pretraining.dialogue import Dialogue, make_processor, make_tokenizer
from selma.shapes.pretraining.janus import generation, save
from selma.shapes.pretraining.multimodal import (
    Examples,
    MultimodalRecipe,
    looked,
    pretrain_multimodal,
)
from selma.shapes.reading.looking import is_so
from selma.shapes.reading.vision import Blob, Picture, read_picture

CORPUS = {"images": 8, "captions": 2, "wrong": 0.1, "drop": 0.1, "pairs": 0.6, "spread": 0.5, "jitter": 1.0}
RECIPE = MultimodalRecipe.of(
    {
        "seed": 3,
        "rare": 0.1,
        "drawn": CORPUS,
        "read": CORPUS,
        "questions": 8,
        "token_steps": 3,
        "vision_steps": 3,
        "steps": 4,
    }
)


SMALL = ((multimodal, "DRAWN"), (multimodal, "READ"), (tokens, "BATCH"), (seeing, "BATCH"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A model of four steps, and its tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in SMALL:
            patch.setattr(module, name, 2)
        return pretrain_multimodal(RECIPE, tmp_path_factory.mktemp("mm"), lambda *row: None)


def test_all_parts_learn_and_the_saved_model_draws_and_answers(made, tmp_path):
    model, tokenizer = made
    assert all(torch.isfinite(each).all() for each in model.parameters())
    before = model.state_dict()
    model = copy.deepcopy(model)
    model.generation_config = generation(tokenizer)
    save(model, tmp_path)
    make_processor(tokenizer, model.config).save_pretrained(tmp_path)
    opened = load_multimodal(tmp_path, "cpu", "float32")
    now = opened.model.state_dict()
    assert set(now) == set(before) and {each.dtype for each in now.values() if each.is_floating_point()} == {
        torch.float32
    }
    for name, weight in before.items():  # three bits behind the point, and steps of 2^-9 near zero
        if weight.is_floating_point():
            assert torch.allclose(now[name], weight, rtol=2**-4, atol=2**-10), name
    ids, mask = opened.prompts(["a red circle"])
    assert ids.shape == mask.shape and opened.image_tokens == 64


def test_a_code_is_the_signs_of_what_was_found():
    torch.manual_seed(0)
    vq = JanusVQVAE(
        JanusVQVAEConfig(
            embed_dim=4,
            num_embeddings=16,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            num_patches=4,
        )
    )
    tokens.begin(vq, 0)
    found = torch.nn.functional.normalize(torch.randn(2, 4, 4, 4), dim=1)
    quantized, _, ids = vq.quantize(found)
    assert torch.equal(quantized.sign(), found.sign())
    bits = (found > 0).permute(0, 2, 3, 1).flatten(0, 2).long()
    assert torch.equal(ids.flatten(), (bits * torch.tensor([1, 2, 4, 8])).sum(1))


def test_every_patch_has_the_label_of_what_covers_it():
    blobs = (Blob("circle", "red", 16.0, 12.0, 20.0), Blob("unknown", "blue", 16.0, 52.0, 20.0))
    found = seeing.labels(Picture("gray", blobs), 8).reshape(8, 8)
    ground = seeing.GROUNDS.index("gray")
    thing = len(seeing.GROUNDS) + seeing.THINGS.index(("red", "circle", "small"))
    expected = np.full((8, 8), ground)
    # The box of the first spans x 4 to 20 and y 12 to 28: the middles 4, 12 and 20, and 12, 20 and 28.
    expected[1:4, 0:3] = thing
    expected[1:4, 5:8] = seeing.UNCLEAR
    assert found.tolist() == expected.tolist()
    assert (seeing.labels(Picture("unknown", ()), 8) == seeing.UNCLEAR).all()


def test_texts_beside_each_other_are_read_as_if_each_stood_alone(made):
    model, tokenizer = made
    dialogue = Dialogue(tokenizer)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    asked = dialogue.questions(
        [["is there a circle?", "is the circle red?"], ["is it blue?", "is there a circle?"]]
    )
    described = dialogue.descriptions([["a red circle"], ["two blue squares on a white background"]])
    with torch.no_grad():
        told, words = looked(model, dialogue, pixels, [asked.long(), described.long()])
        for row in range(2):
            for number in range(2):
                one = unpadded(asked[row : row + 1, number : number + 1].long(), dialogue.pad)
                (alone,) = looked(model, dialogue, pixels[row : row + 1], [one])
                assert torch.allclose(told[row, number, -1], alone[0, 0, -1], atol=1e-4)
            one = unpadded(described[row : row + 1].long(), dialogue.pad)
            (alone,) = looked(model, dialogue, pixels[row : row + 1], [one])
            length = one.shape[-1]
            assert torch.allclose(words[row, 0, -length:], alone[0, 0], atol=1e-4)


def unpadded(ids: torch.Tensor, pad: int) -> torch.Tensor:
    """One text's ids [1, 1, longest] without the padding on their left."""
    return ids[..., ids[0, 0] != pad]


def test_a_description_is_learned_after_the_assistants_name_alone():
    tokenizer = make_tokenizer(["a red circle"] * 3)
    dialogue = Dialogue(tokenizer)
    ids = dialogue.descriptions([["a red circle"]])[0]
    said = dialogue.said(ids.long())
    assert tokenizer.decode(ids[0][said[0]]).strip().removesuffix("<eos>").strip() == "a red circle"


def test_answers_are_the_oracles_and_half_of_them_are_yes():
    corpus = make_corpus(5, images=40, captions=1, rare=0.1, wrong=0, drop=0, pairs=0.6)
    asked = ask(corpus, 5, 8)
    said = [answer for row in asked.answers for answer in row]
    assert abs(said.count("yes") / len(said) - 0.5) < 0.1
    for pixels, texts, answers in zip(corpus.images, asked.texts, asked.answers, strict=True):
        picture = read_picture(Image.fromarray(pixels))
        for text, answer in zip(texts, answers, strict=True):
            assert is_so(picture, Question("1", text, ("yes", "no"), "yes", (), "")) == (answer == "yes")


def test_a_killed_run_goes_on_to_the_same_weights(made, tmp_path, monkeypatch):
    for module, name in SMALL:
        monkeypatch.setattr(module, name, 2)
    with monkeypatch.context() as killed:
        killed.setattr(optimise, "_SAVE_EVERY_SECONDS", -1)
        steps = iter(range(2))
        whole = Examples.loss
        killed.setattr(
            Examples, "loss", lambda *given: whole(*given) if next(steps, None) is not None else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            pretrain_multimodal(RECIPE, tmp_path, lambda *row: None)
    again, _ = pretrain_multimodal(RECIPE, tmp_path, lambda *row: None)
    for name, weight in made[0].state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
