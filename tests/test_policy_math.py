"""The formulas of online self-improvement, against independent computations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from selma.backbones.conditioning import Conditioning
from selma.ground.errors import UserError
from selma.policies.advantages import advantages, informative
from selma.policies.batch import Batch
from selma.policies.diffusion import Diffusion
from selma.policies.rounds import diversity
from selma.policies.surrogate import clipped, divergence, log_densities
from selma.policies.transitions import Transitions
from selma.runtime import variants

KINDS = ("epsilon", "v_prediction")
ALGORITHMS = variants.names("algorithms")
SHAPE = (2, 3, 3)


def diffusion(kind: str = "v_prediction", zero_snr: bool = False) -> Diffusion:
    """Stable Diffusion's schedule, in float64 so that finite differences mean something."""
    schedule = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=kind,
        rescale_betas_zero_snr=zero_snr,
    )
    return Diffusion(kind, schedule.alphas_cumprod.double(), float(schedule.alphas_cumprod[0]))


def transitions(kind: str = "v_prediction", form: str = "ddim", eta: float = 1.0) -> Transitions:
    times = torch.tensor([999, 800, 600, 400, 200, 0, -1])
    return Transitions(diffusion(kind), times[:-1], times[1:], form, eta)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def settings_of(name: str, **given: object) -> dict:
    return variants.options("algorithms", name, given, name)


def make_batch(
    name: str, n: int = 5, kind: str = "v_prediction", near: float = 0.1, **settings: object
) -> Batch:
    """A batch as the learner makes them, and predictions of other adapters `near` the one that the tests vary."""
    steps = transitions(kind, settings.get("form", "ddim"), settings.get("eta", 1.0))
    prediction = random(0, n, *SHAPE)
    others = {
        other: prediction + near * random(i + 1, n, *SHAPE)
        for i, other in enumerate(("old", "start", "average"))
    }
    texts = Conditioning(torch.zeros(n, 1, 1))
    advantage = torch.linspace(-1.5, 2, n, dtype=torch.float64)
    if not variants.load("algorithms", name, name).STEPS:
        clean, noise, times = (
            random(4, n, *SHAPE),
            random(5, n, *SHAPE),
            torch.tensor([30, 200, 450, 700, 930])[:n],
        )
        noisy = steps.diffusion.noisy(clean, noise, times)
        return Batch(steps.diffusion, steps, noisy, times, texts, advantage, clean, noise, others=others)
    index = torch.arange(n) % 5
    noisy = random(6, n, *SHAPE)
    mean = steps.mean(others["old"], noisy, index)
    after = mean + steps.std(index) * random(7, n, *SHAPE)
    return Batch(
        steps.diffusion,
        steps,
        noisy,
        steps.times[index],
        texts,
        advantage,
        index=index,
        after=after,
        others=others,
    )


# The diffusion and its steps ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**31), time=st.integers(0, 998))
def test_a_perfect_prediction_gives_back_what_the_latents_are_made_of(
    kind: str, seed: int, time: int
) -> None:
    found, clean, noise = diffusion(kind), random(seed, 1, *SHAPE), random(seed + 1, 1, *SHAPE)
    times = torch.tensor([time])
    noisy = found.noisy(clean, noise, times)
    target = found.target(clean, noise, times)
    torch.testing.assert_close(found.clean(target, noisy, times), clean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.noise(target, noisy, times), noise, atol=1e-6, rtol=1e-6)


def test_velocity_is_read_where_the_last_time_step_is_pure_noise() -> None:
    found, clean, noise, times = (
        diffusion(zero_snr=True),
        random(0, 1, *SHAPE),
        random(1, 1, *SHAPE),
        torch.tensor([999]),
    )
    noisy = found.noisy(clean, noise, times)
    torch.testing.assert_close(noisy, noise)
    torch.testing.assert_close(found.clean(found.target(clean, noise, times), noisy, times), clean)


@pytest.mark.parametrize("form", ("ddim", "cps"))
@pytest.mark.parametrize("eta", (0.3, 1.0))
def test_with_and_without_noise_a_step_has_the_same_marginals(form: str, eta: float) -> None:
    """By Monte Carlo: from x_t of one image, x_p has mean alpha_p x_0 and deviation sigma_p, whatever the noise."""
    steps = transitions(form=form, eta=eta)
    n, index = 40_000, torch.full((40_000,), 2)
    clean = random(0, 1, *SHAPE).expand(n, *SHAPE)
    noise = random(1, n, *SHAPE)
    noisy = steps.diffusion.noisy(clean, noise, steps.times[index])
    target = steps.diffusion.target(clean, noise, steps.times[index])
    drawn = steps.mean(target, noisy, index) + steps.std(index) * random(2, n, *SHAPE)
    free = steps.mean(target, noisy, index, noise_free=True)
    alpha, sigma = steps.diffusion.scales(steps.after[index[:1]])
    for found in (drawn, free):
        torch.testing.assert_close(found.mean(dim=0), (alpha * clean[:1])[0], atol=0.02, rtol=0)
        torch.testing.assert_close(found.std(dim=0), sigma.expand(1, *SHAPE)[0], atol=0.02, rtol=0)
    assert not torch.allclose(drawn, free)


def test_the_noise_of_a_step_is_ddpms_at_eta_1_and_none_at_0() -> None:
    index = torch.tensor([2])
    alphas = diffusion().alphas_cumprod
    before, after = alphas[600], alphas[400]
    beta = 1 - before / after
    assert transitions(eta=1.0).std(index).item() == pytest.approx(
        math.sqrt((1 - after) / (1 - before) * beta)
    )
    assert transitions(eta=0.0).std(index).item() == 0
    assert transitions(form="cps", eta=1.0).std(index).item() == pytest.approx(math.sqrt(1 - after))


def test_the_density_is_the_gaussians_as_a_mean_over_dimensions() -> None:
    steps, index = transitions(), torch.tensor([0, 3])
    mean, after = random(0, 2, *SHAPE), random(1, 2, *SHAPE)
    expected = Normal(mean, steps.std(index).expand_as(mean)).log_prob(after).flatten(1).mean(dim=1)
    torch.testing.assert_close(steps.log_density(after, mean, index), expected)


def test_the_divergence_is_the_gaussians_as_a_mean_over_dimensions() -> None:
    batch = make_batch("dpok")
    steps, start = batch.transitions, batch.others["start"]
    std = steps.std(batch.index).expand_as(start)
    one, other = (Normal(steps.mean(p, batch.noisy, batch.index), std) for p in (random(0, 5, *SHAPE), start))
    expected = kl_divergence(one, other).flatten(1).mean(dim=1)
    torch.testing.assert_close(divergence(random(0, 5, *SHAPE), start, batch), expected)


# Advantages --------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=6))
def test_advantages_compare_within_a_prompt_on_the_scale_of_the_round(rewards: list[list[float]]) -> None:
    given = torch.tensor(rewards)
    found = advantages(given)
    assert found.sum(dim=1).abs().max() < 1e-2
    expected = (given - given.mean(dim=1, keepdim=True)) / (given.std(unbiased=False) + 1e-4)
    torch.testing.assert_close(found, expected)
    assert (found[~informative(given)].abs() < 1e-2).all()


def test_a_group_of_equal_rewards_is_left_out() -> None:
    rewards = torch.tensor([[0.5, 0.5, 0.5], [0.1, 0.5, 0.5]])
    assert informative(rewards).tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_a_reward_that_is_not_finite_is_one_line(bad: float) -> None:
    with pytest.raises(UserError, match="rewards must be finite"):
        advantages(torch.tensor([[0.1, bad]]))


def test_diversity_is_the_distance_of_two_pictures_of_a_prompt() -> None:
    one = torch.zeros(4, 2, 2)
    two = torch.full((4, 2, 2), 3.0)
    assert diversity(torch.stack([one, two, one, one]), 2) == pytest.approx(
        1.5
    )  # 3 in one group, 0 in the other
    assert diversity(torch.stack([one] * 4), 2) == 0


# The algorithms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"nft"}))  # nft's weight passes no gradient: below
def test_a_losss_gradient_is_that_of_finite_differences(name: str, kind: str) -> None:
    """In every direction tried."""
    options = {"clip_range": 0.5} if "clip_range" in settings_of(name) else {}
    settings = settings_of(name, **options)
    module, batch = (
        variants.load("algorithms", name, name),
        make_batch(name, kind=kind, near=0.02, **settings),
    )
    at = random(0, 5, *SHAPE).requires_grad_()
    (gradient,) = torch.autograd.grad(module.loss(at, batch, settings).sum(), at)
    for seed in range(3):
        direction, step = random(10 + seed, 5, *SHAPE), 1e-5
        ahead, behind = (
            module.loss(at.detach() + sign * step * direction, batch, settings).sum() for sign in (1, -1)
        )
        expected = (ahead - behind) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_better_pictures_pull_and_worse_ones_push(name: str, kind: str) -> None:
    """On the policy that drew them, a small step makes the good ones likelier and, where bad ones count, them less."""
    settings = settings_of(name)
    module, batch = variants.load("algorithms", name, name), make_batch(name, kind=kind, near=0.0, **settings)
    at = random(0, 5, *SHAPE).requires_grad_()
    (gradient,) = torch.autograd.grad(module.loss(at, batch, settings).sum(), at)

    def fit(prediction: torch.Tensor) -> torch.Tensor:
        if module.STEPS:
            return log_densities(prediction, batch)[0]
        return -((prediction - batch.target) ** 2).flatten(1).mean(dim=1)

    change = fit(at.detach() - 1e-4 * gradient) - fit(at.detach())
    good, bad = batch.advantage > 0, batch.advantage < 0
    assert (change[good] > 0).all()
    assert (change[bad] < 0).all() if name != "reinforce_best" else (change[bad] == 0).all()


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"nft"}))
def test_without_an_advantage_there_is_nothing_to_learn(name: str) -> None:
    settings = settings_of(name)
    module, batch = variants.load("algorithms", name, name), make_batch(name, near=0.0, **settings)
    batch = Batch(**{**vars(batch), "advantage": torch.zeros(5, dtype=torch.float64)})
    at = random(0, 5, *SHAPE).requires_grad_()
    (gradient,) = torch.autograd.grad(module.loss(at, batch, settings).sum(), at)
    assert gradient.abs().max() < 1e-12


@given(b=st.floats(0.1, 2), advantage=st.floats(-1, 1))
def test_nft_moves_the_old_prediction_by_the_advantage(b: float, advantage: float) -> None:
    """Where new is old, both branches are: the gradient is (2 r - 1) times the normalised distance's, whatever b."""
    nft = variants.load("algorithms", "nft", "nft")
    batch = make_batch("nft", near=0.0)
    batch = Batch(**{**vars(batch), "advantage": torch.full((5,), advantage, dtype=torch.float64)})
    at = random(0, 5, *SHAPE).requires_grad_()
    settings = settings_of("nft", b=b, clip=1.0, kl=0.0)
    (gradient,) = torch.autograd.grad(nft.loss(at, batch, settings).sum(), at)
    clean = batch.diffusion.clean(at.detach(), batch.noisy, batch.times)
    weight = (clean - batch.clean).abs().flatten(1).mean(dim=1)[:, None, None, None]
    _, sigma = batch.diffusion.scales(batch.times)
    n = clean[0].numel()
    expected = advantage * 2 * (clean - batch.clean) * -sigma / n / weight  # d x0 / d v = -sigma
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-6)


def test_awm_is_the_policy_gradient_of_its_surrogate_density() -> None:
    """grad A w = grad -A exp(log p - sg log p) with log p = -w, the form of the authors' code."""
    awm, batch = variants.load("algorithms", "awm", "awm"), make_batch("awm")
    settings = settings_of("awm", kl=0.0, hold=0.0)
    at = random(0, 5, *SHAPE).requires_grad_()
    (gradient,) = torch.autograd.grad(awm.loss(at, batch, settings).sum(), at)
    share, error = (batch.times + 1) / 1000, ((at - batch.target) ** 2).flatten(1).mean(dim=1)
    density = -share / 0.25 * ((error + 1e-10) ** 0.25 - (1e-10) ** 0.25)
    surrogate = -(batch.advantage.clamp(-5, 5) / 5) * (density - density.detach()).exp()
    torch.testing.assert_close(gradient, torch.autograd.grad(surrogate.sum(), at)[0])


def test_the_clipped_surrogate_lets_no_step_go_further_than_the_band() -> None:
    new = torch.tensor([0.3, -0.3, 0.3, -0.3], dtype=torch.float64, requires_grad=True)
    old, advantage = (
        torch.zeros(4, dtype=torch.float64),
        torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64),
    )
    (gradient,) = torch.autograd.grad(clipped(new, old, advantage, 0.1).sum(), new)
    # Further up with A > 0, further down with A < 0: nothing. Back towards the band: the whole gradient.
    torch.testing.assert_close(
        gradient, torch.tensor([0, -math.exp(-0.3), math.exp(0.3), 0], dtype=torch.float64)
    )


@pytest.mark.parametrize("penalty", ("gaussian", "epsilon"))
def test_dpoks_ratio_learns_nothing_outside_its_band(penalty: str) -> None:
    """Not even back towards it: the published code clamps without PPO's maximum."""
    dpok, batch = variants.load("algorithms", "dpok", "dpok"), make_batch("dpok", near=0.5)
    at = random(0, 5, *SHAPE).requires_grad_()
    settings = settings_of("dpok", clip_range=1e-6, kl=0.0, penalty=penalty)
    (gradient,) = torch.autograd.grad(dpok.loss(at, batch, settings).sum(), at)
    assert gradient.abs().max() == 0
    settings = settings_of("dpok", clip_range=1e-6, kl=1.0, penalty=penalty)
    (pull,) = torch.autograd.grad(dpok.loss(at, batch, settings).sum(), at)
    assert ((at - batch.others["start"]) * pull).sum() > 0  # down the penalty is back to the start


def test_the_score_function_is_the_surrogates_gradient_on_policy() -> None:
    ddpo, batch = variants.load("algorithms", "ddpo", "ddpo"), make_batch("ddpo", near=0.0)
    at = random(0, 5, *SHAPE).requires_grad_()
    found = [
        torch.autograd.grad(ddpo.loss(at, batch, settings_of("ddpo", gradient=kind)).sum(), at)[0]
        for kind in ("is", "sf")
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_states_what_the_learner_reads(name: str) -> None:
    module = variants.load("algorithms", name, name)
    settings = settings_of(name)
    assert {"learning_rate", "passes", "updates"} <= set(settings)
    assert set(module.NEEDS) <= {"old", "start", "average"} and module.DRAWN_BY in ("new", "old")
    assert all(setting is None or setting in settings for setting in module.NEEDS.values())
    assert not module.STEPS or {"form", "eta", "fraction"} <= set(settings)
    assert module.DRAWN_BY == "new" or {"old_rate", "old_most"} <= set(settings)
    assert "arXiv" in Path(module.__file__).read_text(encoding="utf-8")
