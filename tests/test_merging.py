from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.backbones.loading import fingerprint, load_pipeline
from selma.ground.errors import UserError
from selma.lora.adapter import add_lora, lora_state
from selma.lora.files import LoraWeights, load_lora, save_lora
from selma.merging.algebra import cosine, norm
from selma.merging.merge import merge
from selma.runtime import variants

# module -> (out, in), or a convolution's (out, in, h, w)
SHAPES = {"down.to_q": (5, 7), "mid.to_out.0": (6, 4), "mid.proj_in": (6, 4, 1, 1), "up.conv1": (5, 3, 3, 3)}


def random_expert(seed: int, rank: int, scaling: float = 1.0, **provenance: object) -> LoraWeights:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        module: (
            torch.randn(rank, *n_in, generator=generator),
            torch.randn(n_out, rank, *([1] * (len(n_in) - 1)), generator=generator),
        )
        for module, (n_out, *n_in) in SHAPES.items()
    }
    card = {
        "name": f"e{seed}",
        "seed": seed,
        "backbone": "b" * 64,
        "targets": ["to_q", "to_out.0"],
        **provenance,
    }
    return LoraWeights(factors, scaling, {**card, "rank": rank, "alpha": scaling * rank})


def moments(expert: LoraWeights, seed: int = 0) -> dict[str, torch.Tensor]:
    """Second moments of 50 random inputs to each layer."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        module: torch.randn(50, a[0].numel(), generator=generator)
        for module, (a, _) in expert.factors.items()
    }
    return {module: x.T @ x / len(x) for module, x in inputs.items()}


def tokens_of(
    seeds: dict[str, int], like: LoraWeights | None = None
) -> Callable[..., dict[str, torch.Tensor]]:
    """Calibration tokens, random ones of a seed for each expert (selma/merging/calibration.py)."""

    def tokens(expert: str, *, pairs: int, seed: int, rows: dict | None = None) -> dict[str, torch.Tensor]:
        found = moments(like or random_expert(0, 1), seeds[expert])
        return found if rows is None else {m: rows[m] @ c @ rows[m].T for m, c in found.items()}

    return tokens


def merged(operator: str, experts: list[LoraWeights], equal: bool = False, **options: object) -> LoraWeights:
    """The experts called e0, e1, ..., merged; with `equal` all read the same, and a score prefers short updates."""
    named = {f"e{i}": expert for i, expert in enumerate(experts)}
    tokens = tokens_of(
        {name: 0 if equal else int(expert.provenance["seed"]) for name, expert in named.items()}
    )
    return merge("merged", operator, named, options, tokens=tokens, score=lambda lora: -norm(lora))


WHOLE = {  # options with which an operator takes nothing away
    **{name: {"density": 1.0} for name in ("ties", "dare", "magnitude_prune", "knots")},
    "searched": {"evaluations": 1},
}


def product(b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """The dense weight of applying A, then B: of a convolution, what it makes of every single input."""
    if a.ndim == 2:
        return b @ a
    return torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


scalings = st.sampled_from([0.25, 1.0, 2.0])
seeds = st.lists(st.integers(0, 10**6), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 6), scalings)
def test_factor_mean_is_the_papers_formula(seeds, rank, scaling):
    experts = [random_expert(seed, rank, scaling) for seed in seeds]
    result = merged("factor_mean", experts)
    assert result.rank == rank
    for module in SHAPES:
        pairs = [product(b.factors[module][1], a.factors[module][0]) for a in experts for b in experts]
        close(result.delta(module), scaling * sum(pairs) / len(experts) ** 2)


def test_a_delta_is_the_product_of_its_factors():
    expert = random_expert(0, 3, scaling=2.0)
    for module, (a, b) in expert.factors.items():
        assert expert.delta(module).shape == SHAPES[module]
        close(expert.delta(module), 2.0 * product(b, a))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 6), scalings), min_size=1, max_size=5))
def test_delta_mean_is_the_mean_of_the_dense_deltas(drawn):
    experts = [random_expert(*one) for one in drawn]
    result = merged("delta_mean", experts)
    assert result.rank == sum(rank for _, rank, _ in drawn)
    for module in SHAPES:
        close(result.delta(module), torch.stack([expert.delta(module) for expert in experts]).mean(0))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 6), scalings, st.sampled_from(variants.names("operators")))
def test_one_expert_reproduces_itself(seed, rank, scaling, operator):
    expert = random_expert(seed, rank, scaling)
    result = merged(operator, [expert], **WHOLE.get(operator, {}))
    assert result.rank in (rank, min(rank, 5))  # no layer holds more than 5
    assert result.provenance["alpha"] == result.scaling * result.rank
    for module in SHAPES:
        torch.testing.assert_close(result.delta(module), expert.delta(module), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("operator", variants.names("operators"))
def test_the_order_of_the_experts_does_not_matter(operator):
    experts = {f"e{seed}": random_expert(seed, 3) for seed in range(3)}
    given = {
        "tokens": tokens_of({name: i for i, name in enumerate(experts)}),
        "score": lambda lora: -norm(lora),
    }
    options = (
        {"evaluations": 1} if operator == "searched" else {}
    )  # its corners are the experts' in their order
    reference = merge("merged", operator, experts, options, **given)
    for order in permutations(experts):
        result = merge("merged", operator, {name: experts[name] for name in order}, options, **given)
        for module in SHAPES:
            close(result.delta(module), reference.delta(module))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.integers(100, 199), st.integers(1, 6), st.integers(1, 6), scalings)
def test_cosine_and_norm_are_those_of_the_dense_deltas(one, other, rank, other_rank, scaling):
    a, b = random_expert(one, rank, scaling), random_expert(other, other_rank)
    dense_a, dense_b = (torch.cat([x.delta(module).flatten() for module in SHAPES]) for x in (a, b))
    assert norm(a) == pytest.approx(float(dense_a.norm()), rel=1e-4)
    assert cosine(a, b) == pytest.approx(float(torch.cosine_similarity(dense_a, dense_b, 0)), abs=1e-4)
    assert cosine(a, a) == pytest.approx(1.0)


def test_an_untrained_expert_has_cosine_0_with_any():
    expert = random_expert(0, 2)
    zero = LoraWeights({m: (a, torch.zeros_like(b)) for m, (a, b) in expert.factors.items()}, 1.0, {})
    assert cosine(expert, zero) == 0.0
    assert norm(zero) == 0.0


def test_the_result_tells_what_it_was_made_of():
    result = merge("mine", "delta_mean", {"count": random_expert(0, 2), "tags": random_expert(1, 3)})
    assert result.provenance == {
        "name": "mine",
        "operator": "delta_mean",
        "experts": ["count", "tags"],
        "backbone": "b" * 64,
        "targets": ["to_q", "to_out.0"],
        "rank": 5,
        "alpha": 5.0,
    }


@pytest.mark.parametrize(
    ("odd", "operator"),
    [
        (random_expert(1, 2, backbone="c" * 64), "delta_mean"),
        (random_expert(1, 2, targets=["to_q"]), "delta_mean"),
        (random_expert(1, 3), "factor_mean"),
        (random_expert(1, 2, scaling=2.0), "factor_mean"),
        (
            LoraWeights(
                {"down.to_q": random_expert(1, 2).factors["down.to_q"]}, 1.0, random_expert(1, 2).provenance
            ),
            "delta_mean",
        ),
    ],
    ids=["backbone", "targets", "rank", "scaling", "layers"],
)
def test_an_expert_that_does_not_fit_is_named(odd, operator):
    odd.provenance["name"] = "odd"
    with pytest.raises(UserError, match="'odd'"):
        merge("mine", operator, {"count": random_expert(0, 2), "odd": odd})


def test_an_unknown_operator_and_no_experts_are_refused():
    with pytest.raises(
        UserError, match=r"operator is 'best'; it must be one of: dare, delta_mean, factor_mean"
    ):
        merge("mine", "best", {"count": random_expert(0, 2)})
    with pytest.raises(UserError, match=r"merges\.mine\.experts"):
        merge("mine", "delta_mean", {})


@pytest.mark.parametrize("targets", [["to_q", "to_out.0"], ["to_q", "proj_in", "conv1"]])
@pytest.mark.parametrize("operator", variants.names("operators"))
def test_diffusers_opens_the_merged_lora_at_weight_1(tiny_backbone, tmp_path, operator, targets):
    experts = {}
    for seed, name in enumerate(["count", "tags"]):
        unet = load_pipeline(tiny_backbone).unet
        add_lora(unet, 2, 6.0, targets, seed)
        generator = torch.Generator().manual_seed(seed)
        state = {k: torch.randn(v.shape, generator=generator) * 0.3 for k, v in lora_state(unet).items()}
        card = {"rank": 2, "alpha": 6.0, "targets": targets}
        card["backbone"] = fingerprint(tiny_backbone)
        save_lora(tmp_path / name, state, card)
        experts[name] = load_lora(tmp_path / name)
    tokens = tokens_of({"count": 0, "tags": 1}, like=experts["count"])
    result = merge("merged", operator, experts, tokens=tokens, score=lambda lora: -norm(lora))
    save_lora(tmp_path / "merged", result.state(), result.provenance)
    dense = load_pipeline(tiny_backbone).unet
    for module in result.factors:
        dense.get_submodule(module).weight += result.delta(module)
    pipe = load_pipeline(tiny_backbone)
    pipe.load_lora_weights(tmp_path / "merged")
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 77, 16)
    with torch.inference_mode():
        torch.testing.assert_close(pipe.unet(*inputs).sample, dense(*inputs).sample, rtol=1e-4, atol=1e-4)


def test_a_merge_that_is_not_finite_is_named():
    huge = random_expert(0, 2)
    huge.factors["down.to_q"] = tuple(factor * 1e38 for factor in huge.factors["down.to_q"])
    experts = {"count": huge, "tags": huge}
    with pytest.raises(UserError, match=r"merges\.mine: the merged down\.to_q is not finite"):
        merge("mine", "factor_mean", experts)
