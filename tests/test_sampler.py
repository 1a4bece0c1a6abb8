from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selma.backbones.loading import load_pipeline
from selma.backbones.schedulers import SCHEDULERS, make_scheduler
from selma.ground.errors import UserError
from selma.ground.pairs import read_pairs
from selma.images import folder, sampler
from selma.lora.adapter import add_lora
from selma.runtime.params import Drawing

TEXTS = ["a red circle", "two blue squares", "a green star", "a red circle", "a small cross"]
SEEDS = [3, 1, 4, 159, 26]
DRAWING = Drawing(scheduler="ddim", steps=4, guidance=3.0, batch=2)


@pytest.fixture(scope="module", params=["tiny_backbone", "tiny_backbone_epsilon", "tiny_sdxl", "tiny_sdxl_v"])
def pipe(request):
    return load_pipeline(request.getfixturevalue(request.param))


def theirs(pipe, guidance=3.0, scheduler="ddim"):
    """What diffusers' own pipeline draws."""
    pipe.scheduler = make_scheduler(scheduler, pipe.scheduler.config)
    images = pipe(
        TEXTS,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images
    return [np.asarray(image, dtype=int) for image in images]


def drawn(pipe, batch=3, done=(), **settings):
    images = sampler.draw(pipe, TEXTS, SEEDS, replace(DRAWING, batch=batch, **settings), done=done)
    return {i: np.asarray(image, dtype=int) for i, image in images}


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_draws_what_diffusers_draws(pipe, guidance, scheduler):
    ours = drawn(pipe, guidance=guidance, scheduler=scheduler)
    for i, image in enumerate(theirs(pipe, guidance, scheduler)):
        assert np.abs(ours[i] - image).max() <= 1
    assert np.abs(ours[0] - ours[1]).max() > 8


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_guidance_of_1_or_less_is_none_as_in_diffusers(pipe, guidance):
    ours = drawn(pipe, guidance=guidance)
    for i, image in enumerate(theirs(pipe, guidance)):
        assert np.abs(ours[i] - image).max() <= 1
    assert all((ours[i] == image).all() for i, image in drawn(pipe, guidance=1.0).items())


def changed(backbone: Path, folder: Path, part: str, **settings) -> Path:
    """A copy of a backbone, with settings in one of its parts' configs."""
    shutil.copytree(backbone, folder)
    (config,) = (folder / part).glob("*config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    return folder


STATISTICS = {"latents_mean": [-1.6, 1.1, 0.3, -0.4], "latents_std": [8.4, 0.5, 5.2, 2.6]}  # as Playground's


def test_a_vae_with_statistics_of_its_latents_decodes_as_in_diffusers(tiny_sdxl, tmp_path):
    pipe = load_pipeline(changed(tiny_sdxl, tmp_path / "xl", "vae", **STATISTICS))
    ours, plain = drawn(pipe), drawn(load_pipeline(tiny_sdxl))
    for i, image in enumerate(theirs(pipe)):
        assert np.abs(ours[i] - image).max() <= 1
        assert np.abs(ours[i] - plain[i]).max() > 8


@pytest.mark.parametrize("guidance", [1e300, 1e38])
def test_what_is_not_finite_names_its_prompt_and_leaves_no_picture(tiny_backbone, tmp_path, guidance):
    rows = [{"file_name": "0.png", "text": "a red circle", "id": "0", "seed": 3}]
    with pytest.raises(
        UserError, match=rf"'a red circle' is not finite \(guidance {guidance}, float32\)".replace("+", r"\+")
    ):
        folder.draw_folder(load_pipeline(tiny_backbone), rows, tmp_path, replace(DRAWING, guidance=guidance))
    assert not list(tmp_path.iterdir())


def test_one_image_that_is_not_finite_is_the_one_that_is_named(tiny_backbone):
    """As half precision overflows: for some prompts, in the VAE alone."""
    pipe = load_pipeline(tiny_backbone)
    decode = pipe.vae.decode

    def broken(latents, **options):
        image = decode(latents, **options)[0]
        return (torch.cat([image[:1], image[1:2] * torch.inf, image[2:]]),)

    pipe.vae.decode = broken
    with pytest.raises(UserError, match="'two blue squares' is not finite"):
        drawn(pipe)


def test_a_text_whose_encoding_is_not_finite_is_named(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    pipe.text_encoder.final_layer_norm.weight.data[:] = torch.inf
    with pytest.raises(UserError, match=r"'': its encoding is not finite in torch\.float32"):
        drawn(pipe)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 1001}, "ddim cannot draw with this backbone (1001 steps are more than the 1000"),
        ({"steps": 1000}, "1000 steps would begin beyond the last of 1000"),
        ({"steps": 5000, "scheduler": "euler"}, "more than the 1000 that the backbone was trained on"),
        ({"resolution": 18}, "must be a multiple of 4"),
        (
            {"scheduler": "pndm"},
            "pndm does not know rescale_betas_zero_snr, which this backbone was trained with",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said_before_anything_is(tiny_backbone, tmp_path, settings, named):
    pipe = load_pipeline(changed(tiny_backbone, tmp_path / "zero", "scheduler", rescale_betas_zero_snr=True))
    pipe.encode_prompt = pipe.unet.forward = None  # neither is reached
    with pytest.raises(UserError) as caught:
        drawn(pipe, **settings)
    assert named in str(caught.value)


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS.keys() - {"pndm"}))
def test_a_zero_terminal_snr_is_kept_and_drawn_as_diffusers_draws_it(tiny_backbone, tmp_path, scheduler):
    settings = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    pipe = load_pipeline(changed(tiny_backbone, tmp_path / "zero", "scheduler", **settings))
    ours = drawn(pipe, scheduler=scheduler)
    assert pipe.scheduler.config.rescale_betas_zero_snr is True
    for i, image in enumerate(theirs(pipe, scheduler=scheduler)):
        assert np.abs(ours[i] - image).max() <= 1


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_a_step_or_two_are_enough(tiny_backbone, scheduler, steps):
    assert len(drawn(load_pipeline(tiny_backbone), scheduler=scheduler, steps=steps)) == len(TEXTS)


def test_running_out_of_memory_names_what_to_lower(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)

    def full(*args, **options):
        torch.empty(2**60)

    pipe.unet.forward = full
    with pytest.raises(
        UserError, match=r"out of memory; lower drawing\.batch \(3 images at once\) or drawing\.resolution"
    ):
        drawn(pipe)


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
    folder.draw_folder(pipe, rows, tmp_path / "whole", DRAWING)
    left = tmp_path / "left"
    left.mkdir()
    (left / "1.png").write_bytes(b"kept")
    (left / ".tmp-1-2.png").write_bytes(b"half")
    folder.draw_folder(pipe, rows, left, DRAWING)
    assert sorted(file.name for file in left.iterdir()) == [*(f"{i}.png" for i in range(5)), "metadata.jsonl"]
    assert (left / "1.png").read_bytes() == b"kept"
    assert (left / "2.png").read_bytes() == (tmp_path / "whole/2.png").read_bytes()
    assert [pair.text for pair in read_pairs(left)] == TEXTS


@pytest.mark.parametrize("scheduler", ["ddim", "euler_ancestral"])
def test_pictures_do_not_depend_on_the_number_of_cores(pipe, scheduler, monkeypatch):
    monkeypatch.setattr(sampler, "PART_PIXELS", 2 * 32 * 32)
    before, found = torch.get_num_threads(), {}
    for cores in (1, 2, 3):
        torch.set_num_threads(cores)
        found[cores] = drawn(pipe, batch=4, scheduler=scheduler)
        assert torch.get_num_threads() == cores
    torch.set_num_threads(before)
    for images in found.values():  # texts are encoded by all cores together, which rounds differently
        assert all(np.abs(images[i] - image).max() <= 1 for i, image in found[1].items())


def test_texts_are_projected_once_for_all_steps(pipe, monkeypatch):
    (block,) = [layer for name, layer in pipe.unet.named_modules() if name == "mid_block.attentions.0"]
    keys = block.transformer_blocks[0].attn2.to_k
    calls, own = [], type(keys).forward
    monkeypatch.setattr(type(keys), "forward", lambda self, x: (calls.append(self), own(self, x))[1])
    drawn(pipe, batch=5)
    assert calls.count(keys) == 1  # 4 steps
    assert "forward" not in vars(keys), "the UNet is left as it was"


def test_a_lora_that_is_being_trained_draws_and_trains_on(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    add_lora(pipe.unet, 4, 4.0, ["to_k", "to_v"], seed=0)
    own = [layer.forward for layer in pipe.unet.modules() if "forward" in vars(layer)]
    drawn(pipe)
    assert own and own == [layer.forward for layer in pipe.unet.modules() if "forward" in vars(layer)]


def test_shards_together_are_the_whole_byte_for_byte(pipe, tmp_path):
    rows = [
        {"file_name": f"{i}.png", "text": text, "id": str(i), "seed": seed}
        for i, (text, seed) in enumerate(zip(TEXTS, SEEDS, strict=True))
    ]
    folder.draw_folder(pipe, rows, tmp_path / "whole", DRAWING)
    drawn_by = []
    for shard in (1, 2, 3):
        folder.draw_folder(pipe, rows, tmp_path / "shards", DRAWING, shard=(shard, 3))
        drawn_by.append(len(list((tmp_path / "shards").glob("*.png"))))
        assert not (tmp_path / "shards/metadata.jsonl").exists(), "it is not whole yet"
    assert drawn_by == [2, 4, 5]
    folder.draw_folder(pipe, rows, tmp_path / "shards", DRAWING)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "shards" / file.name).read_bytes() == file.read_bytes()


def test_progress_counts_steps_as_parts_of_images_and_begins_with_what_is_there(pipe, tmp_path):
    rows = [
        {"file_name": f"{i}.png", "text": text, "id": str(i), "seed": seed}
        for i, (text, seed) in enumerate(zip(TEXTS, SEEDS, strict=True))
    ]
    told: list[tuple[int, int]] = []
    parts: list[float] = []

    @contextmanager
    def bar(total, done):
        told.append((total, done))
        yield parts.append

    folder.draw_folder(pipe, rows, tmp_path, DRAWING, bar=bar)
    assert (
        told == [(5, 0)] and sum(parts) == pytest.approx(5) and max(parts) <= 0.5
    )  # the last of 3 pairs is padded
    (tmp_path / "4.png").unlink()
    folder.draw_folder(pipe, rows, tmp_path, DRAWING, bar=bar)
    assert told[1] == (5, 4)


def test_a_picture_that_cannot_be_written_stops_the_drawing(tiny_backbone, tmp_path):
    rows = [{"file_name": f"{i}.png", "text": "x", "id": str(i), "seed": i} for i in range(6)]
    (tmp_path / ".tmp-0.png").mkdir(parents=True)
    with pytest.raises(OSError):
        folder.draw_folder(load_pipeline(tiny_backbone), rows, tmp_path, DRAWING)


def test_a_contact_sheet_holds_every_image():
    images = [Image.new("RGB", (4, 6), (i, 0, 0)) for i in range(5)]
    sheet = sampler.contact_sheet(images, columns=3)
    assert sheet.size == (16, 14)
    assert sheet.getpixel((6 + 1, 8 + 1)) == (4, 0, 0)
