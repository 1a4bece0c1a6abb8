from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from selma.backbones import conditioning
from selma.backbones.latents import to_vae
from selma.backbones.loading import fingerprint, load_pipeline
from selma.backbones.schedulers import training_schedule
from selma.experts import examples, loop, noisy
from selma.experts.draws import batch_indices, initial_seed
from selma.ground.errors import UserError
from selma.lora.adapter import add_lora, lora_parameters
from selma.lora.files import load_lora
from selma.runtime.params import Training
from selma.variants.objectives import denoising
from selma.variants.objectives.denoising import batch_loss, draw_batch

SETTINGS = Training(
    backbone="tiny",
    rank=4,
    alpha=4.0,
    targets=("to_q", "to_v"),
    steps=12,
    batch=4,
    learning_rate=1e-2,
    weight_decay=1e-2,
    max_grad_norm=1.0,
    caption_dropout=0.2,
    checkpoint_every=5,
)
TEXTS = ["a red circle", "a blue square", "a green star", "a red circle", "a cross", "two dots"]
CARD = {"name": "count", "rank": 4, "alpha": 4.0, "targets": ["to_q", "to_v"]}


def pictures(n: int = len(TEXTS), size: tuple[int, int] = (32, 32)) -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (n, *size[::-1], 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in noise]


def trained(
    backbone: Path, folder: Path, settings: Training = SETTINGS, change=lambda unet: None, **options
) -> list:
    """Train a fresh adapter; also run, with other arguments, in the process that is killed below."""
    pipe = load_pipeline(backbone)
    encoded = examples.encode(pipe, pictures(), TEXTS)
    add_lora(pipe.unet, 4, 4.0, ["to_q", "to_v"], seed=0)
    change(pipe.unet)
    return loop.train(
        denoising,
        pipe.unet,
        training_schedule(pipe),
        encoded,
        settings,
        **{
            "seed": 0,
            "folder": folder / "out",
            "state": folder / "state.safetensors",
            "provenance": {**CARD, "backbone": fingerprint(backbone)},
            **options,
        },
    )


def kill_at(step: int):
    """A loss callback that kills its process at a step, as the out-of-memory killer would."""

    def on_loss(count: int, loss: float) -> None:
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_loss


def checkpoints(folder: Path) -> dict[str, bytes]:
    files = sorted((folder / "out").rglob("*.*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}


def test_training_learns_and_keeps_every_checkpoint(tiny_backbone, tmp_path):
    curve = trained(tiny_backbone, tmp_path, replace(SETTINGS, steps=60, checkpoint_every=25))
    assert [step for step, _ in curve] == list(range(1, 61))
    losses = [loss for _, loss in curve]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "step-000025",
        "step-000050",
        "step-000060",
    ]
    last = load_lora(tmp_path / "out/step-000060")
    assert last.provenance["steps"] == 60
    assert any(b.abs().max() > 0 for _, b in last.factors.values())


@pytest.mark.parametrize(
    "own", [{}, {"schedule": "cosine", "warmup": 3, "ema": 0.9, "min_snr": 5.0}, {"schedule": "linear"}]
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tiny_backbone, tmp_path, own):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = replace(SETTINGS, **own)
    curve = trained(tiny_backbone, whole, settings)
    script = (
        "import sys; from pathlib import Path; from tests.test_trainer import *;"
        "settings = replace(SETTINGS, **json.loads(sys.argv[3]));"
        "trained(Path(sys.argv[1]), Path(sys.argv[2]), settings, on_loss=kill_at(8))"
    )
    root = Path(__file__).parents[1]
    dead = subprocess.run([sys.executable, "-c", script, tiny_backbone, killed, json.dumps(own)], cwd=root)
    assert dead.returncode == -signal.SIGKILL
    assert sorted(file.name for file in (killed / "out").iterdir()) == ["step-000005"]
    seen = []
    again = trained(tiny_backbone, killed, settings, on_loss=lambda step, loss: seen.append(step))
    assert seen == list(range(6, 13))  # not from the start
    assert again == curve
    assert checkpoints(killed) == checkpoints(whole)


def test_state_is_saved_by_time_too(tiny_backbone, tmp_path):
    class StopError(Exception):
        pass

    def stop(step, loss):
        if step == 4:
            raise StopError

    with pytest.raises(StopError):
        trained(tiny_backbone, tmp_path, on_loss=stop, state_seconds=0.0)
    seen = []
    trained(tiny_backbone, tmp_path, on_loss=lambda step, loss: seen.append(step))
    assert seen[0] == 4


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 5))
def test_every_epoch_sees_every_example_once(n, batch, seed):
    steps = 3 * n
    rows = torch.cat([batch_indices(n, batch, seed, step) for step in range(steps)])
    assert len(rows) == steps * batch
    for epoch in rows[: len(rows) // n * n].split(n):
        assert sorted(epoch.tolist()) == list(range(n))
    assert max(Counter(rows.tolist()).values()) - min(Counter(rows.tolist()).values()) <= 1


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [batch_indices(50, 50, seed, step).tolist() for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_the_loss_is_that_of_the_backbones_prediction_type(
    tiny_backbone, tiny_backbone_epsilon, tmp_path, kind
):
    backbone = tiny_backbone if kind == "v_prediction" else tiny_backbone_epsilon
    pipe = load_pipeline(backbone)
    schedule = training_schedule(pipe)
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    times = torch.tensor([10, 500, 900])
    alpha = schedule.alphas_cumprod[times].view(-1, 1, 1, 1)
    expected = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents if kind == "v_prediction" else noise
    torch.testing.assert_close(noisy.target(schedule, latents, noise, times), expected)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_batch_in_parts_trains_the_same(tiny_sdxl, tmp_path, parts):
    settings = replace(SETTINGS, steps=6, learning_rate=1e-3)
    whole = trained(tiny_sdxl, tmp_path / "whole", settings)
    split = trained(tiny_sdxl, tmp_path / "parts", replace(settings, accumulate=parts))
    np.testing.assert_allclose([loss for _, loss in whole], [loss for _, loss in split], rtol=1e-4)
    one, other = (load_lora(tmp_path / name / "out/step-000006") for name in ("whole", "parts"))
    for module in one.factors:
        torch.testing.assert_close(one.delta(module), other.delta(module), rtol=2e-2, atol=1e-5)


def test_gradient_checkpointing_trains_the_same(tiny_sdxl, tmp_path):
    settings = replace(SETTINGS, steps=6, learning_rate=1e-3)
    plain = trained(tiny_sdxl, tmp_path / "plain", settings)
    again = []  # parts that were computed a second time

    def watch(unet):
        unet.enable_gradient_checkpointing()
        unet.mid_block.resnets[1].register_forward_pre_hook(lambda *_: again.append(torch.is_grad_enabled()))

    saving = trained(tiny_sdxl, tmp_path / "saving", settings, change=watch)
    assert len(again) == 2 * settings.steps, "nothing was computed on the way back"
    np.testing.assert_allclose([loss for _, loss in plain], [loss for _, loss in saving], rtol=1e-5)
    one, other = (load_lora(tmp_path / name / "out/step-000006") for name in ("plain", "saving"))
    for module in one.factors:
        torch.testing.assert_close(one.delta(module), other.delta(module), rtol=1e-3, atol=1e-6)


def test_gradients_are_clipped_before_every_step(tiny_backbone, tmp_path, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def watched(self, *args, **options):
        grads = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat(grads).norm()))
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    trained(tiny_backbone, tmp_path, replace(SETTINGS, max_grad_norm=1e-4))
    assert len(norms) == SETTINGS.steps
    assert max(norms) == pytest.approx(1e-4, rel=1e-2)


def test_dropout_of_every_caption_forgets_the_captions(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    schedule = training_schedule(pipe)
    dropped = replace(SETTINGS, caption_dropout=1.0)
    kept = replace(SETTINGS, caption_dropout=0.0)
    with_text = examples.encode(pipe, pictures(), TEXTS)
    without = examples.encode(pipe, pictures(), [""] * len(TEXTS))
    with torch.no_grad():
        forgotten, textless, remembered = (
            batch_loss(pipe.unet, draw_batch(schedule, encoded, settings, 0, 0))
            for encoded, settings in ((with_text, dropped), (without, kept), (with_text, kept))
        )
    assert forgotten == textless != remembered


def test_cached_latents_are_those_of_encoding_in_the_loop(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    encoded = examples.encode(pipe, pictures(), TEXTS)
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in pictures()])
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels / 127.5 - 1).latent_dist
    noise = torch.randn(posterior.mean.shape)
    in_loop = (posterior.mean + posterior.std * noise) * pipe.vae.config.scaling_factor
    torch.testing.assert_close(encoded.mean + encoded.std * noise, in_loop, rtol=1e-4, atol=1e-5)
    texts = conditioning.encode_texts(pipe, TEXTS)
    torch.testing.assert_close(encoded.texts[encoded.caption].states, texts.states)
    assert encoded.caption[0] == encoded.caption[3]


def test_what_was_encoded_once_is_read_again_as_it_was(pipe_of, tmp_path):
    pipe = pipe_of
    made = examples.encode(pipe, pictures(), TEXTS)
    first = examples.kept(tmp_path / "kept.safetensors", lambda: made, pipe.device)
    again = examples.kept(tmp_path / "kept.safetensors", lambda: pytest.fail("encoded twice"), pipe.device)
    for found in (first, again):
        assert torch.equal(found.mean, made.mean) and torch.equal(found.std, made.std)
        assert torch.equal(found.caption, made.caption) and torch.equal(found.time_ids, made.time_ids)
        assert torch.equal(found.texts.states, made.texts.states)
        assert (found.texts.pooled is None) == (made.texts.pooled is None)


@pytest.fixture(params=["tiny_backbone", "tiny_sdxl"])
def pipe_of(request):
    return load_pipeline(request.getfixturevalue(request.param))


def test_flipped_latents_are_those_of_the_mirrored_images(pipe_of, tmp_path):
    size = (80, 48)  # fitted and cropped first: diffusers' own order
    mirrored = [ImageOps.mirror(image) for image in pictures(size=size)]
    plain = examples.encode(pipe_of, pictures(size=size), TEXTS)
    flipped = examples.encode(pipe_of, mirrored, TEXTS)
    both = examples.encode(pipe_of, pictures(size=size), TEXTS, flip=True)
    kept = examples.kept(tmp_path / "kept.safetensors", lambda: both, pipe_of.device)
    for found in (both, kept):
        torch.testing.assert_close(found.mean, plain.mean)
        torch.testing.assert_close(
            found.mirror_mean, flipped.mean, atol=2e-2, rtol=0
        )  # pixels round otherwise
        torch.testing.assert_close(found.mirror_std, flipped.std, atol=2e-2, rtol=0)
        assert torch.equal(found.time_ids, flipped.time_ids)
    assert (plain.mean - flipped.mean).abs().max() > 0.1
    assert torch.equal(kept.mirror_mean, both.mirror_mean) and torch.equal(kept.mirror_std, both.mirror_std)
    assert plain.mirror_mean is None and plain.mirror_std is None


def test_parts_of_flipped_images_stay_in_their_order(tiny_backbone, monkeypatch):
    pipe = load_pipeline(tiny_backbone)
    monkeypatch.setattr(examples, "ENCODE_BATCH", 2)
    images, texts = pictures(5), [f"{i}" for i in range(5)]
    both = examples.encode(pipe, images, texts, flip=True)
    for image, mean in zip(images, both.mirror_mean, strict=True):
        alone = examples.encode(pipe, [ImageOps.mirror(image)], ["x"])
        torch.testing.assert_close(mean, alone.mean[0])


def test_each_image_of_a_batch_is_mirrored_or_not_and_nothing_else_changes(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    schedule = training_schedule(pipe)
    settings = replace(SETTINGS, batch=64)
    plain = examples.encode(pipe, pictures(), TEXTS)
    both = examples.encode(pipe, pictures(), TEXTS, flip=True)
    only = replace(plain, mean=both.mirror_mean, std=both.mirror_std)
    batch, mixed, mirrored = (
        draw_batch(schedule, each, settings, seed=3, step=5) for each in (plain, both, only)
    )
    assert torch.equal(mixed.times, batch.times)
    assert torch.equal(mixed.texts.states, batch.texts.states)
    as_it_is = (mixed.noisy == batch.noisy).flatten(1).all(dim=1)
    as_mirrored = (mixed.noisy == mirrored.noisy).flatten(1).all(dim=1)
    assert (as_it_is ^ as_mirrored).all() and 16 < as_mirrored.sum() < 48
    again = draw_batch(schedule, both, settings, seed=3, step=5)
    assert torch.equal(again.noisy, mixed.noisy)
    other = draw_batch(schedule, both, settings, seed=3, step=6)
    assert not torch.equal(other.noisy, mixed.noisy)


def test_without_flips_a_step_draws_what_it_always_drew(tiny_backbone):
    """The recipe of the draws, written out: an expert's bytes hang on their order."""
    pipe = load_pipeline(tiny_backbone)
    schedule = training_schedule(pipe)
    found = examples.encode(pipe, pictures(), TEXTS)
    batch = draw_batch(schedule, found, SETTINGS, seed=3, step=5)
    digest = hashlib.sha256(b"3:step:5").digest()
    random = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    sample, noise = (torch.randn((4, 4, 8, 8), generator=random) for _ in range(2))
    times = torch.randint(1000, (4,), generator=random)
    rows = batch_indices(len(TEXTS), 4, 3, 5)
    latents = found.mean[rows] + found.std[rows] * sample
    assert torch.equal(batch.times, times)
    assert torch.equal(batch.noisy, schedule.add_noise(latents, noise, times))


def test_an_adapters_own_start_is_stable_and_another_for_each_expert():
    names = ["count", "tags", "single"]
    assert [initial_seed("shared", 42, name) for name in names] == [42] * 3
    own = [initial_seed("own", seed, name) for seed in (42, 43) for name in names]
    assert len(set(own)) == 6 and all(0 <= seed < 2**63 for seed in own)
    assert own[0] == 5466363622429039275


def test_images_are_encoded_side_by_side_in_their_order(tiny_backbone, monkeypatch):
    pipe, before = load_pipeline(tiny_backbone), torch.get_num_threads()
    monkeypatch.setattr(examples, "ENCODE_BATCH", 2)
    texts = [f"{i}" for i in range(9)]
    torch.set_num_threads(1)
    alone = examples.encode(pipe, pictures(9), texts)
    torch.set_num_threads(3)
    together = examples.encode(pipe, pictures(9), texts)
    torch.set_num_threads(before)
    torch.testing.assert_close(together.mean, alone.mean)
    assert (alone.mean[1:] - alone.mean[:-1]).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_a_base_in_half_precision_trains_an_adapter_in_float32(tiny_backbone, tmp_path):
    pipe = load_pipeline(tiny_backbone, dtype="bfloat16")
    encoded = examples.encode(pipe, pictures(), TEXTS)
    add_lora(pipe.unet, 4, 4.0, ["to_q", "to_v"], seed=0)
    options = {"provenance": {**CARD, "backbone": "x"}, "seed": 0, "state": tmp_path / "state"}
    curve = loop.train(
        denoising, pipe.unet, training_schedule(pipe), encoded, SETTINGS, folder=tmp_path / "out", **options
    )
    exact = trained(tiny_backbone, tmp_path / "exact")
    assert all(parameter.dtype == torch.float32 for parameter in lora_parameters(pipe.unet).values())
    assert [loss for _, loss in curve] == pytest.approx([loss for _, loss in exact], rel=0.05)


def test_images_of_another_size_are_fitted(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    encoded = examples.encode(pipe, pictures(2, (80, 48)), TEXTS[:2])
    assert encoded.mean.shape == (2, 4, 8, 8)
    # 48 pixels high became 32, so 80 wide became 53.3, of which the crop leaves 10.7 out on either side
    assert encoded.time_ids.tolist() == [[48, 80, 0, 11, 32, 32]] * 2
    assert examples.encode(pipe, pictures(1), TEXTS[:1], 16).mean.shape == (1, 4, 4, 4)


def test_the_base_does_not_move(tiny_backbone, tmp_path):
    pipe = load_pipeline(tiny_backbone)
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    encoded = examples.encode(pipe, pictures(), TEXTS)
    add_lora(pipe.unet, 4, 4.0, ["to_q", "to_v"], seed=0)
    options = {"seed": 0, "folder": tmp_path / "out", "state": tmp_path / "state.safetensors"}
    card = {**CARD, "backbone": "x"}
    loop.train(denoising, pipe.unet, training_schedule(pipe), encoded, SETTINGS, provenance=card, **options)
    after = {name.replace(".base_layer", ""): tensor for name, tensor in pipe.unet.state_dict().items()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_latents_of_a_vae_with_statistics_are_encoded_as_diffusers_encodes_them(tiny_sdxl, tmp_path):
    """Against the image-to-image pipeline, which is diffusers' own way from an image to the UNet's latents."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    folder = shutil.copytree(tiny_sdxl, tmp_path / "xl")
    config = folder / "vae/config.json"
    statistics = {"latents_mean": [-1.6, 1.1, 0.3, -0.4], "latents_std": [8.4, 0.5, 5.2, 2.6]}
    config.write_text(json.dumps({**json.loads(config.read_text()), **statistics}))
    pipe = load_pipeline(folder)
    encoded = examples.encode(pipe, pictures(2), TEXTS[:2])
    theirs = StableDiffusionXLImg2ImgPipeline(**pipe.components)
    images = theirs.image_processor.preprocess(pictures(2))
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    latents = theirs.prepare_latents(
        images, None, 2, 1, torch.float32, torch.device("cpu"), generators, add_noise=False
    )
    noise = torch.cat(
        [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    )
    torch.testing.assert_close(encoded.mean + encoded.std * noise, latents, rtol=1e-4, atol=1e-5)
    # and back: what was encoded is what the VAE decodes
    posterior = pipe.vae.encode(images).latent_dist
    torch.testing.assert_close(to_vae(pipe, encoded.mean), posterior.mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flip", "count", "named"), [(False, 12, 10), (True, 6, 2)]
)  # with flip, the second pass is of mirrored images
def test_latents_that_are_not_finite_name_their_image(tiny_backbone, flip, count, named):
    pipe = load_pipeline(tiny_backbone)
    encode, passes = pipe.vae.encode, iter(range(9))

    def broken(pixels):
        posterior = encode(pixels)
        if next(passes) == 1:
            posterior.latent_dist.mean[2] *= torch.inf
        return posterior

    pipe.vae.encode = broken
    texts = [f"picture {i}" for i in range(count)]
    with pytest.raises(UserError, match=rf"latents of the image of 'picture {named}' are not finite"):
        examples.encode(pipe, pictures(count), texts, flip=flip)


def test_a_gradient_that_is_not_finite_stops_before_the_next_checkpoint(tiny_backbone, tmp_path):
    """Its loss is finite: the overflow is on the way back, as in bfloat16 at a huge alpha."""
    steps = iter(range(100))

    def change(unet):
        def overflow(gradient):
            return gradient * torch.inf if next(steps) == 6 else gradient

        next(p for name, p in unet.named_parameters() if "lora_B" in name).register_hook(overflow)

    settings = replace(SETTINGS, steps=300, checkpoint_every=8)  # losses are read every third step
    with pytest.raises(UserError, match="the loss or the gradient is not finite at step 8"):
        trained(tiny_backbone, tmp_path, settings, change=change)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_not_written(tiny_backbone, tmp_path):
    """The last update may break them, when every loss was read."""
    settings = replace(SETTINGS, steps=1, checkpoint_every=1, learning_rate=1e300)
    with pytest.raises(UserError, match="holds values that are not finite; this LoRA is not written"):
        trained(tiny_backbone, tmp_path, settings)
    assert not list((tmp_path / "out").rglob("*"))


def test_a_batch_beyond_the_memory_is_named(tiny_backbone, tmp_path):
    settings = SimpleNamespace(**{**SETTINGS.__dict__, "batch": 10**12})
    with pytest.raises(UserError, match=r"expert\.batch: 1000000000000: needs .* GB of memory"):
        trained(tiny_backbone, tmp_path, settings)


def test_float16_and_divergence_are_one_line(tiny_backbone, tmp_path):
    unet = load_pipeline(tiny_backbone, dtype="float16").unet
    options = {"seed": 0, "folder": tmp_path, "state": tmp_path / "s", "provenance": {}}
    with pytest.raises(UserError, match="bfloat16"):
        loop.train(denoising, unet, None, None, SETTINGS, **options)
    with pytest.raises(UserError, match="diverged"):
        trained(tiny_backbone, tmp_path, replace(SETTINGS, learning_rate=1e20))
