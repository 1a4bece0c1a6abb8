"""What trainers of LoRAs offer besides the paper's plain training; each is off by default."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from selma.backbones.loading import fingerprint, load_pipeline
from selma.backbones.schedulers import training_schedule
from selma.experts import examples, loop, noisy
from selma.experts.average import Average
from selma.experts.card import card
from selma.experts.schedule import learning_rate
from selma.ground.adapters import WEIGHTS
from selma.lora import kohya
from selma.lora.adapter import add_lora
from selma.lora.files import load_lora, save_lora
from selma.merging.merge import merge
from selma.runtime import variants
from selma.runtime.params import Expert, Training
from selma.variants.objectives import denoising
from tests.test_trainer import SETTINGS, TEXTS, pictures, trained

# The learning rate ---------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 59), st.sampled_from(["constant", "linear", "cosine"]))
def test_the_learning_rate_is_diffusers_own(steps, warmup, schedule):
    from diffusers.optimization import get_scheduler

    settings = replace(SETTINGS, steps=steps, warmup=min(warmup, steps - 1), schedule=schedule)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    theirs = get_scheduler(
        "constant_with_warmup" if schedule == "constant" else schedule,
        optimizer,
        num_warmup_steps=settings.warmup,
        num_training_steps=steps,
    )
    for step in range(steps):
        assert learning_rate(settings, step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-15)
        optimizer.step()
        theirs.step()


def test_by_default_it_is_the_setting_to_the_bit():
    assert {learning_rate(SETTINGS, step) for step in range(SETTINGS.steps)} == {SETTINGS.learning_rate}


def test_every_update_is_made_at_its_steps_rate(tiny_backbone, tmp_path, monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def watched(self, *args, **options):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    settings = replace(SETTINGS, schedule="cosine", warmup=4)
    trained(tiny_backbone, tmp_path, settings)
    assert rates == [learning_rate(settings, step) for step in range(settings.steps)]
    assert rates[0] == 0 and max(rates) == rates[4] == settings.learning_rate and rates[-1] < rates[-2]


# Min-SNR ---------------------------------------------------------------------------------------


def schedule_of(kind: str, zero: bool = False):
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind, rescale_betas_zero_snr=zero)


@pytest.mark.parametrize("gamma", [0.5, 5.0, 1e9])
def test_min_snr_weighs_as_in_the_paper(gamma):
    """arXiv 2303.09556: min(snr, gamma) of the error in the image; of that in v, min(snr, gamma) / (snr + 1)."""
    times = torch.arange(0, 1000, 37)
    a = schedule_of("epsilon").alphas_cumprod[times].double()
    snr = a / (1 - a)
    least = snr.clamp(max=gamma)
    for kind, wanted in (("epsilon", least / snr), ("v_prediction", least / (snr + 1))):
        found = noisy.min_snr_weights(schedule_of(kind), times, gamma)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-7)
        assert found.max() <= 1


def test_an_error_in_the_image_weighs_the_same_whatever_is_predicted():
    """e = (x_t - sqrt(a) x0) / sqrt(1 - a) and v = sqrt(a) e - sqrt(1 - a) x0: errors scale by a/(1-a) and 1/(1-a)."""
    times = torch.tensor([10, 300, 600, 900])
    a = schedule_of("epsilon").alphas_cumprod[times]
    noise, velocity = (
        noisy.min_snr_weights(schedule_of(kind), times, 5.0) for kind in ("epsilon", "v_prediction")
    )
    torch.testing.assert_close(noise * a / (1 - a), velocity / (1 - a), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "last"), [("epsilon", 1.0), ("v_prediction", 0.0)])
def test_a_last_step_of_pure_noise_has_a_weight(kind, last):
    schedule = schedule_of(kind, zero=True)
    assert schedule.alphas_cumprod[-1] == 0
    found = noisy.min_snr_weights(schedule, torch.arange(1000), 5.0)
    assert found.isfinite().all() and (found >= 0).all() and found[-1] == last


@pytest.mark.parametrize("backbone", ["tiny_backbone", "tiny_backbone_epsilon", "tiny_sdxl_v"])
def test_the_loss_is_weighed_by_example_and_so_are_its_parts(backbone, request):
    pipe = load_pipeline(request.getfixturevalue(backbone))
    schedule, settings = training_schedule(pipe), replace(SETTINGS, min_snr=1.0, batch=6)
    encoded = examples.encode(pipe, pictures(), TEXTS)
    batch = denoising.draw_batch(schedule, encoded, settings, 0, 0)
    plain = replace(batch, weights=None)
    with torch.no_grad():
        each = torch.stack([denoising.batch_loss(pipe.unet, one) for one in plain.split(6)])
        whole = denoising.batch_loss(pipe.unet, batch)
        parts = torch.stack(
            [denoising.batch_loss(pipe.unet, part) * len(part) / 6 for part in batch.split(4)]
        )
    torch.testing.assert_close(whole, (batch.weights * each).mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parts.sum(), whole, rtol=1e-4, atol=1e-6)
    assert batch.weights.min() < batch.weights.max()


def test_without_it_nothing_is_weighed(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    encoded = examples.encode(pipe, pictures(), TEXTS)
    assert denoising.draw_batch(training_schedule(pipe), encoded, SETTINGS, 0, 0).weights is None


# The moving average ----------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_is_diffusers_own(decay):
    from diffusers.training_utils import EMAModel

    parameter = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
    average, theirs = Average({"x": parameter}, decay), EMAModel([parameter], decay=decay)
    for step in range(30):
        with torch.no_grad():
            parameter.add_(torch.randn(3, generator=torch.Generator().manual_seed(step + 1)))
        average.update(step)
        theirs.step([parameter])
        own = parameter.detach().clone()
        with average.applied():
            torch.testing.assert_close(parameter.detach(), theirs.shadow_params[0], rtol=1e-5, atol=1e-6)
        assert torch.equal(parameter, own)


def factors(folder, step):
    return load_lora(folder / f"out/step-{step:06d}").factors


def test_checkpoints_hold_the_average_and_training_goes_on_without_it(tiny_backbone, tmp_path):
    settings = replace(SETTINGS, checkpoint_every=1)
    plain = trained(tiny_backbone, tmp_path / "plain", settings)
    averaged = trained(tiny_backbone, tmp_path / "averaged", replace(settings, ema=0.7))
    assert averaged == plain, "what is trained is not what is kept"
    steps = range(1, settings.steps + 1)
    for module, first in factors(tmp_path / "plain", 1).items():
        for part in (0, 1):
            expected = first[part]
            for step in steps:
                decay = min(0.7, step / (9 + step)) if step > 1 else 0.0
                expected = decay * expected + (1 - decay) * factors(tmp_path / "plain", step)[module][part]
            kept = factors(tmp_path / "averaged", settings.steps)[module][part]
            torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-6)


# rsLoRA, convolutions --------------------------------------------------------------------------

RANK, ALPHA = 4, 3.0
MANY = ("to_q", "proj_in", "conv1", "conv_shortcut", "time_emb_proj")


def made(backbone: Path, folder: Path, settings: Training) -> Path:
    """The last checkpoint of an expert, trained as the stage does."""
    pipe = load_pipeline(backbone)
    encoded = examples.encode(pipe, pictures(), TEXTS)
    add_lora(pipe.unet, settings.rank, settings.lora_alpha, list(settings.targets), seed=0)
    told = {"backbone": fingerprint(backbone), "images": len(TEXTS), "seed": 0}
    row = Expert(data="data/images/count", objective="denoising")
    loop.train(
        denoising,
        pipe.unet,
        training_schedule(pipe),
        encoded,
        settings,
        seed=0,
        folder=folder,
        state=folder.with_suffix(".safetensors"),
        provenance=card("count", row, settings, {}, **told),
    )
    return folder / f"step-{settings.steps:06d}"


def test_rslora_scales_by_the_root_of_the_rank_as_pefts_does():
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import Linear

    settings = replace(SETTINGS, rank=RANK, alpha=ALPHA, rslora=True)
    assert settings.lora_alpha / RANK == pytest.approx(ALPHA / math.sqrt(RANK))
    assert replace(settings, rslora=False).lora_alpha == ALPHA
    module = torch.nn.Sequential(torch.nn.Linear(8, 8))
    theirs = get_peft_model(
        module, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"], use_rslora=True)
    )
    layer = next(each for each in theirs.modules() if isinstance(each, Linear))
    assert layer.scaling["default"] == pytest.approx(settings.lora_alpha / RANK)


@pytest.mark.parametrize("targets", [("to_q", "to_v"), MANY], ids=["attention", "convolutions"])
@pytest.mark.parametrize("backbone", ["tiny_backbone", "tiny_sdxl"])
def test_rslora_opens_in_diffusers_as_it_was_trained(backbone, targets, request, tmp_path):
    """By lora.json, by diffusers' own loader, and from a kohya file: the same update, at alpha / sqrt(rank)."""
    folder = request.getfixturevalue(backbone)
    settings = replace(SETTINGS, steps=4, rank=RANK, alpha=ALPHA, rslora=True, targets=targets)
    expert = made(folder, tmp_path / "out", settings)
    lora = load_lora(expert)
    assert lora.scaling == pytest.approx(ALPHA / math.sqrt(RANK))
    if targets == MANY:
        assert {a.ndim for a, _ in lora.factors.values()} == {2, 4}
    unet = load_pipeline(folder).unet
    config = dict(unet.config)
    save_file(kohya.tensors(lora, config, "float32"), tmp_path / "kohya.safetensors")
    files = {"diffusers": (expert, WEIGHTS), "kohya": (tmp_path, "kohya.safetensors")}
    for kind, (where, file) in files.items():
        pipe = load_pipeline(folder)
        pipe.load_lora_weights(where, weight_name=file)
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
        for module, (a, b) in lora.factors.items():
            dense = (b.flatten(1) @ a.flatten(1)).view(len(b), *a.shape[1:]) * (ALPHA / math.sqrt(RANK))
            weight = unet.get_submodule(module).weight + dense
            found = pipe.unet.get_submodule(module).weight
            torch.testing.assert_close(found, weight, rtol=1e-4, atol=1e-5, msg=f"{kind}: {module}")


def test_convolutions_learn_sample_and_merge_by_every_operator(tiny_backbone, tmp_path):
    from selma.images import sampler
    from selma.runtime.drawing import Drawing

    settings = replace(SETTINGS, steps=4, targets=MANY)
    folders = [
        made(tiny_backbone, tmp_path / str(i), replace(settings, learning_rate=1e-2 * i)) for i in (1, 2)
    ]
    experts = {str(i): load_lora(folder) for i, folder in enumerate(folders)}
    for factors in experts["0"].factors.values():
        assert factors[1].abs().max() > 0, "every layer has learned"
    drawing = Drawing(scheduler="ddim", steps=2, guidance=2.0, batch=2, resolution=32)
    base, drawn = (
        next(sampler.draw(load_pipeline(tiny_backbone, lora=lora), ["a cat"], [0], drawing))[1]
        for lora in (None, folders[0])
    )
    assert base.size == drawn.size == (32, 32) and base.tobytes() != drawn.tobytes()
    for operator in variants.names("operators"):
        if variants.constants("operators", operator).get("NEEDS"):
            continue  # tests/test_calibration.py
        merged = merge("merged", operator, experts)
        assert {a.ndim for a, _ in merged.factors.values()} == {2, 4}, operator
        save_lora(tmp_path / operator, merged.state(), merged.provenance)
        load_pipeline(tiny_backbone, lora=tmp_path / operator)
        assert kohya.tensors(merged, dict(load_pipeline(tiny_backbone).unet.config), "float16"), operator
