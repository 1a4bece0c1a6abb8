from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from selma.backbones.loading import load_pipeline
from selma.backbones.schedulers import SCHEDULERS, make_scheduler
from selma.ground.pairs import read_pairs
from selma.images import sampler
from selma.runtime.params import Drawing

TEXTS = ["a red circle", "two blue squares", "a green star", "a red circle", "a small cross"]
SEEDS = [3, 1, 4, 159, 26]
DRAWING = Drawing(scheduler="ddim", steps=4, guidance=3.0, batch=2)


@pytest.fixture(scope="module", params=["tiny_backbone", "tiny_backbone_epsilon", "tiny_sdxl", "tiny_sdxl_v"])
def pipe(request):
    return load_pipeline(request.getfixturevalue(request.param))


def drawn(pipe, batch=3, done=(), **settings):
    images = sampler.draw(pipe, TEXTS, SEEDS, replace(DRAWING, batch=batch, **settings), done=done)
    return {i: np.asarray(image, dtype=int) for i, image in images}


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_draws_what_diffusers_draws(pipe, guidance, scheduler):
    ours = drawn(pipe, guidance=guidance, scheduler=scheduler)
    pipe.scheduler = make_scheduler(scheduler, pipe.scheduler.config)
    theirs = pipe(
        TEXTS,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images
    for i, image in enumerate(theirs):
        assert np.abs(ours[i] - np.asarray(image, dtype=int)).max() <= 1
    assert np.abs(ours[0] - ours[1]).max() > 8


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_an_image_does_not_depend_on_its_batch(pipe, scheduler):
    reference = drawn(pipe, batch=1, scheduler=scheduler)
    for batch in (2, 5, 8):
        other = drawn(pipe, batch=batch, scheduler=scheduler)
        assert list(other) == [0, 1, 2, 3, 4]
        assert all(np.abs(reference[i] - other[i]).max() <= 1 for i in reference)


def test_text_seed_and_guidance_each_change_the_picture(pipe):
    images = drawn(pipe)
    assert np.abs(images[0] - images[3]).max() > 8  # one text, two seeds
    one_seed = sampler.draw(pipe, TEXTS[:2], [7, 7], DRAWING)
    first, second = (np.asarray(image, dtype=int) for _, image in one_seed)
    assert (first != second).any()
    assert (drawn(pipe, guidance=1.0)[0] != images[0]).any()


def test_guidance_1_makes_one_pass_of_half_the_batch(pipe, monkeypatch):
    sizes = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    drawn(pipe, guidance=1.0)
    drawn(pipe, guidance=2.0)
    hook.remove()
    assert sizes == [3] * 8 + [6] * 8  # two batches of four steps each; the padded one is as large


def test_what_is_done_is_left_out_and_the_rest_keeps_its_bytes(pipe):
    whole = drawn(pipe)
    rest = drawn(pipe, done={0, 1, 2, 4})
    assert list(rest) == [3]
    assert (rest[3] == whole[3]).all()
    assert drawn(pipe, done=range(5)) == {}


def test_drawing_leaves_gradients_on_for_the_caller(tiny_backbone):
    images = sampler.draw(load_pipeline(tiny_backbone), TEXTS, SEEDS, DRAWING)
    next(images)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    images.close()


def test_another_size_can_be_asked_for(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    (image,) = (im for _, im in sampler.draw(pipe, ["x"], [0], replace(DRAWING, resolution=48)))
    assert image.size == (48, 48)


def test_a_folder_is_finished_where_it_was_left(tiny_backbone, tmp_path):
    pipe = load_pipeline(tiny_backbone)
    rows = [
        {"file_name": f"{i}.png", "text": text, "id": str(i), "seed": seed}
        for i, (text, seed) in enumerate(zip(TEXTS, SEEDS, strict=True))
    ]
    sampler.draw_folder(pipe, rows, tmp_path / "whole", DRAWING)
    left = tmp_path / "left"
    left.mkdir()
    (left / "1.png").write_bytes(b"kept")
    (left / ".tmp-1-2.png").write_bytes(b"half")
    sampler.draw_folder(pipe, rows, left, DRAWING)
    assert sorted(file.name for file in left.iterdir()) == [*(f"{i}.png" for i in range(5)), "metadata.jsonl"]
    assert (left / "1.png").read_bytes() == b"kept"
    assert (left / "2.png").read_bytes() == (tmp_path / "whole/2.png").read_bytes()
    assert [pair.text for pair in read_pairs(left)] == TEXTS


def test_a_contact_sheet_holds_every_image():
    images = [Image.new("RGB", (4, 6), (i, 0, 0)) for i in range(5)]
    sheet = sampler.contact_sheet(images, columns=3)
    assert sheet.size == (16, 14)
    assert sheet.getpixel((6 + 1, 8 + 1)) == (4, 0, 0)
