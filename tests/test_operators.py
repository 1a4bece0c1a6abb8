"""Every operator against dense algebra, and against peft where it has the same one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils

from selma.ground.errors import UserError
from selma.lora.files import LoraWeights
from selma.merging.algebra import norm
from selma.merging.layers import factorize, truncate
from selma.merging.merge import merge
from selma.runtime import variants
from tests.test_merging import SHAPES, WHOLE, close, merged, moments, random_expert, scalings, tokens_of

some = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 10**6)
drawn = st.lists(st.tuples(seeds, st.integers(1, 6), scalings), min_size=1, max_size=4)
weights = st.floats(-2, 2, allow_subnormal=False)
densities = st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.9, 1.0])
FULL = 99  # a rank that truncates nothing


def dense(expert: LoraWeights, module: str) -> torch.Tensor:
    """The update of a layer as a matrix [out, n]."""
    return expert.delta(module).flatten(1)


def deltas(experts: list[LoraWeights], module: str) -> list[torch.Tensor]:
    return [dense(expert, module) for expert in experts]


def best_of_rank(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).float()


def relative_loss(kept: LoraWeights, whole: dict[str, torch.Tensor]) -> float:
    lost = sum(float((dense(kept, m) - w).square().sum()) for m, w in whole.items())
    return (lost / sum(float(w.square().sum()) for w in whole.values())) ** 0.5


# Weighted sums ---------------------------------------------------------------------------------


@some
@given(st.lists(st.tuples(seeds, st.integers(1, 6), scalings, weights), min_size=1, max_size=4), weights)
def test_weighted_is_the_weighted_sum_of_the_dense_updates(rows, scale):
    experts = [random_expert(*row[:3]) for row in rows]
    given = {f"e{i}": row[3] for i, row in enumerate(rows)}
    result = merged("weighted", experts, weights=given, scale=scale)
    assert result.rank == sum(expert.rank for expert in experts)
    for module in SHAPES:
        terms = [w * d for w, d in zip(given.values(), deltas(experts, module), strict=True)]
        close(dense(result, module), scale * sum(terms))


@some
@given(drawn, weights)
def test_without_weights_it_is_the_mean_times_the_scale(rows, scale):
    experts = [random_expert(*row) for row in rows]
    result, mean = merged("weighted", experts, scale=scale), merged("delta_mean", experts)
    for module in SHAPES:
        close(dense(result, module), scale * dense(mean, module))


@some
@given(drawn, st.integers(0, 8))
def test_svd_is_the_best_approximation_of_the_weighted_sum(rows, rank):
    experts = [random_expert(*row) for row in rows]
    result = merged("svd", experts, rank=rank, scale=-1.5)
    mean = merged("weighted", experts, scale=-1.5)
    rank = rank or max(expert.rank for expert in experts)
    assert result.rank == min(rank, max(min(s[0], math.prod(s[1:])) for s in SHAPES.values()), mean.rank)
    for module in SHAPES:
        close(dense(result, module), best_of_rank(dense(mean, module), rank))
    loss = relative_loss(result, {module: dense(mean, module) for module in SHAPES})
    assert result.provenance["found"]["truncation"] == pytest.approx(loss, abs=1e-3)


def peft_merge(experts: list[LoraWeights], weights: list[float], kind: str, **options: object) -> dict:
    """Dense updates of peft's own merge of the experts' linear layers."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    linear = [module for module, shape in SHAPES.items() if len(shape) == 2]
    root = torch.nn.Module()
    for module in linear:
        inner = root
        *path, last = module.split(".")
        for part in path:
            if not hasattr(inner, part):
                inner.add_module(part, torch.nn.Module())
            inner = getattr(inner, part)
        inner.add_module(last, torch.nn.Linear(SHAPES[module][1], SHAPES[module][0], bias=False))
    names = [f"e{i}" for i in range(len(experts))]
    for name, expert in zip(names, experts, strict=True):
        config = LoraConfig(r=expert.rank, lora_alpha=expert.scaling * expert.rank, target_modules=linear)
        if name == "e0":
            model = get_peft_model(root, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        state = {f"base_model.model.{k}": v for k, v in expert.state().items() if k.startswith(tuple(linear))}
        set_peft_model_state_dict(model, state, adapter_name=name)
    model.add_weighted_adapter(names, weights, "both", combination_type=kind, **options)
    layers = {module: model.base_model.model.get_submodule(module) for module in linear}
    return {module: layer.get_delta_weight("both") for module, layer in layers.items()}


@pytest.mark.parametrize("given", [[0.5, 0.5], [1.3, 0.2], [0.7, -0.4]])
def test_weighted_is_pefts_cat_and_svd_its_svd(given):
    experts = [random_expert(0, 2, 2.0), random_expert(1, 3, 0.25)]
    names = {f"e{i}": weight for i, weight in enumerate(given)}
    ours = merged("weighted", experts, weights=names)
    for module, theirs in peft_merge(experts, given, "cat").items():
        close(dense(ours, module), theirs)
    ours = merged("svd", experts, weights=names, rank=2)
    for module, theirs in peft_merge(experts, given, "svd", svd_rank=2).items():
        close(dense(ours, module), theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("ties", "ties_svd"), ("magnitude_prune", "magnitude_prune_svd")]
)
def test_pruned_merges_at_a_rank_are_pefts(ours, theirs):
    experts = [random_expert(seed, 3, 2.0) for seed in range(3)]
    each = 1.0 if ours == "ties" else 1 / 3  # peft adds up, ours is a mean
    result = merged(ours, experts, density=0.5, rank=2)
    options = {"density": 0.5, "svd_rank": 2}
    for module, expected in peft_merge(experts, [each] * 3, theirs, **options).items():
        close(dense(result, module), expected)


# Pruned and elected ----------------------------------------------------------------------------


@some
@given(drawn, densities, st.sampled_from(["total", "count"]), weights)
def test_ties_is_pefts_on_dense_updates(rows, density, sign, scale):
    experts = [random_expert(*row) for row in rows]
    result = merged("ties", experts, density=density, sign=sign, scale=scale, rank=FULL)
    method = {"total": "total", "count": "frequency"}[sign]
    ones = torch.ones(len(experts))
    for module in SHAPES:
        theirs = merge_utils.ties(deltas(experts, module), ones, density, majority_sign_method=method)
        close(dense(result, module), scale * theirs)
    assert result.provenance["found"]["truncation"] == 0


@some
@given(drawn, densities)
def test_magnitude_prune_is_pefts_on_dense_updates(rows, density):
    experts = [random_expert(*row) for row in rows]
    result = merged("magnitude_prune", experts, density=density, rank=FULL)
    each = torch.full((len(experts),), 1 / len(experts))
    for module in SHAPES:
        close(dense(result, module), merge_utils.magnitude_prune(deltas(experts, module), each, density))


def test_a_density_that_keeps_no_whole_entry_keeps_one():
    expert = random_expert(0, 2)
    result = merged("magnitude_prune", [expert], density=1e-6, rank=FULL)
    for module in SHAPES:
        assert int((dense(result, module) != 0).sum()) == 1
        close(dense(result, module).abs().max(), dense(expert, module).abs().max())


@some
@given(seeds, st.sampled_from([0.2, 0.5, 0.9]), st.integers(0, 99))
def test_dare_keeps_an_entry_whole_over_the_density_or_drops_it(seed, density, dice):
    expert = random_expert(seed, 3, 2.0)
    result = merged("dare", [expert], density=density, seed=dice, rank=FULL)
    for module in SHAPES:
        found, whole = dense(result, module), dense(expert, module) / density
        gone = found.abs() < 1e-6
        close(found[~gone], whole[~gone])


def test_dare_is_the_mean_in_expectation_and_its_seed_says_what_is_dropped():
    experts = [random_expert(0, 3), random_expert(1, 2)]
    many = [merged("dare", experts, density=0.5, seed=seed, rank=FULL) for seed in range(400)]
    mean = merged("delta_mean", experts)
    for module in SHAPES:
        each = torch.stack([dense(one, module) for one in many])
        error = (each.mean(0) - dense(mean, module)).abs() / (each.std(0) / 400**0.5 + 1e-9)
        assert float(error.max()) < 5
    again = merged("dare", experts, density=0.5, seed=3, rank=FULL)
    assert all(torch.equal(dense(again, m), dense(many[3], m)) for m in SHAPES)
    assert not any(torch.equal(dense(many[4], m), dense(many[3], m)) for m in SHAPES)


def test_no_two_experts_or_layers_lose_the_same_entries():
    same = random_expert(0, 3)
    one = merge("m", "dare", {"a": same}, {"rank": FULL})
    other = merge("m", "dare", {"b": same}, {"rank": FULL})
    assert not any(torch.equal(dense(one, m), dense(other, m)) for m in SHAPES)


@pytest.mark.parametrize("operator", ["ties", "dare", "magnitude_prune"])
@pytest.mark.parametrize("rank", [0, 1, 2, 4])
def test_what_a_rank_cuts_off_is_the_least_and_is_told(operator, rank):
    experts = [random_expert(0, 1), random_expert(1, 2)]
    whole = merged(operator, experts, rank=FULL)
    result = merged(operator, experts, rank=rank)
    assert result.rank == (rank or 3)
    for module in SHAPES:
        close(dense(result, module), best_of_rank(dense(whole, module), rank or 3))
    loss = relative_loss(result, {module: dense(whole, module) for module in SHAPES})
    assert loss > 0.01
    assert result.provenance["found"]["truncation"] == pytest.approx(loss, abs=1e-4)


@some
@given(drawn, st.sampled_from([0.3, 0.5, 1.0]))
def test_knots_is_ties_on_the_svd_of_the_dense_updates(rows, density):
    experts = [random_expert(*row) for row in rows]
    result = merged("knots", experts, density=density, scale=0.6)
    for module in SHAPES:
        parts = deltas(experts, module)
        u, s, v = torch.linalg.svd(torch.cat(parts, dim=1).double(), full_matrices=False)
        kept = min(len(s), sum(expert.rank for expert in experts))
        split = (s[:kept, None] * v[:kept]).split([part.shape[1] for part in parts], dim=1)
        elected = merge_utils.ties(list(split), torch.ones(len(parts)), density)
        torch.testing.assert_close(
            dense(result, module), (0.6 * u[:, :kept] @ elected).float(), rtol=1e-3, atol=1e-3
        )


# Least squares ---------------------------------------------------------------------------------


def residual(result: LoraWeights, experts: dict[str, LoraWeights], tokens) -> float:
    """sum_t E_t |dW x - dW_t x|^2 over all layers."""
    total = 0.0
    for name, expert in experts.items():
        for module, moment in tokens(name, pairs=1, seed=0).items():
            apart = (dense(result, module) - dense(expert, module)).double()
            total += float(((apart @ moment.double()) * apart).sum())
    return total


@some
@given(drawn, st.sampled_from([0.0, 1e-3, 0.5]))
def test_regmean_is_its_formula(rows, ridge):
    experts = {f"e{i}": random_expert(*row) for i, row in enumerate(rows)}
    tokens = tokens_of({name: i for i, name in enumerate(experts)})
    result = merge("m", "regmean", experts, {"ridge": ridge}, tokens=tokens)
    assert result.rank == sum(expert.rank for expert in experts.values())
    for module in SHAPES:
        c = {name: tokens(name, pairs=1, seed=0)[module].double() for name in experts}
        mean_diagonal = sum(c.values()).diagonal().mean() / len(c)
        c = {name: m + ridge * mean_diagonal * torch.eye(len(m)) for name, m in c.items()}
        weighed = sum(dense(expert, module).double() @ c[name] for name, expert in experts.items())
        close(dense(result, module), (weighed @ torch.linalg.inv(sum(c.values()))).float())


@some
@given(drawn)
def test_ssr_is_its_formula(rows):
    experts = {f"e{i}": random_expert(*row) for i, row in enumerate(rows)}
    tokens = tokens_of({name: i for i, name in enumerate(experts)})
    result = merge("m", "ssr", experts, {"ridge": 1e-2}, tokens=tokens)
    for module in SHAPES:
        a = torch.cat([expert.factors[module][0].flatten(1) for expert in experts.values()]).double()
        parts, g, q, start = [], 0, [], 0
        moment = {name: tokens(name, pairs=1, seed=0)[module].double() for name in experts}
        ridge = 1e-2 * torch.trace(sum(a @ c @ a.T for c in moment.values())) / len(a) / len(experts)
        for name, expert in experts.items():
            each = a @ moment[name] @ a.T + ridge * torch.eye(len(a))
            g = g + each
            q.append(each[start : start + expert.rank])
            start += expert.rank
            parts.append(expert.scaling * expert.factors[module][1].flatten(1).double())
        expected = torch.cat(parts, dim=1) @ torch.cat(q) @ torch.linalg.inv(g) @ a
        torch.testing.assert_close(dense(result, module), expected.float(), rtol=1e-3, atol=1e-3)


@some
@given(drawn, st.sampled_from(["regmean", "ssr"]))
def test_equal_statistics_give_delta_mean(rows, operator):
    experts = [random_expert(*row) for row in rows]
    result, mean = merged(operator, experts, equal=True), merged("delta_mean", experts)
    for module in SHAPES:
        torch.testing.assert_close(dense(result, module), dense(mean, module), rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=10)
@given(st.lists(seeds, min_size=2, max_size=4, unique=True), st.integers(1, 3))
def test_no_operator_answers_nearer_to_the_experts_than_regmean(drawn, rank):
    experts = {f"e{i}": random_expert(seed, rank) for i, seed in enumerate(drawn)}
    tokens = tokens_of({name: i for i, name in enumerate(experts)})
    given = {"tokens": tokens, "score": lambda lora: -residual(lora, experts, tokens)}
    found = {}
    for name in variants.names("operators"):
        options = {"ridge": 0.0} if name == "regmean" else {"ridge": 1e-9} if name == "ssr" else {}
        found[name] = residual(merge("m", name, experts, options, **given), experts, tokens)
    assert found["regmean"] <= min(found.values()) + 1e-3
    # ssr is the best within the experts' rows, where the mean is, too
    assert found["ssr"] <= found["delta_mean"] + 1e-3
    assert found["searched"] <= found["delta_mean"] + 1e-3


# Search ----------------------------------------------------------------------------------------


def towards(target: dict[str, float], experts: dict[str, LoraWeights]):
    """A score that is highest at given weights."""
    aim = merge("m", "weighted", experts, {"weights": target})

    def score(lora: LoraWeights) -> float:
        return -sum(float((dense(lora, m) - dense(aim, m)).square().sum()) for m in SHAPES)

    return score


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_search_comes_near_the_best_weights_within_its_evaluations(seed):
    experts = {name: random_expert(i, 2) for i, name in enumerate("abc")}
    score = towards({"a": 0.9, "b": -0.2, "c": 0.4}, experts)
    result = merge("m", "searched", experts, {"evaluations": 60, "seed": seed}, score=score)
    found = result.provenance["found"]
    trace = found["trace"]
    assert found["evaluations"] == len(trace) <= 60
    assert trace[0]["weights"] == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=1e-6)  # delta_mean
    scales = set(trace[1]["weights"].values())
    assert len(scales) == 1 and scales.pop() == pytest.approx(0.5, abs=1e-6)  # and half as long again
    assert found["score"] == max(row["score"] for row in trace)
    assert score(result) == pytest.approx(found["score"], abs=1e-4)
    assert found["score"] > 0.05 * trace[0]["score"]  # a twentieth of the distance
    again = merge("m", "searched", experts, {"evaluations": 60, "seed": seed}, score=score)
    assert again.provenance == result.provenance


@pytest.mark.parametrize("evaluations", [1, 2, 5, 12])
def test_the_search_stops_in_time_within_its_bound(evaluations):
    experts = {name: random_expert(i, 2) for i, name in enumerate("abc")}
    asked = []
    options = {"evaluations": evaluations, "bound": 0.6}

    def score(lora: LoraWeights) -> float:
        asked.append(lora)
        return norm(lora)

    found = merge("m", "searched", experts, options, score=score).provenance["found"]
    assert len(asked) == found["evaluations"] <= evaluations
    assert all(abs(each) <= 0.6 for row in found["trace"] for each in row["weights"].values())
    assert {lora.provenance["backbone"] for lora in asked} == {"b" * 64}  # each could be saved and drawn


def test_a_flat_score_keeps_the_mean():
    experts = {name: random_expert(i, 2) for i, name in enumerate("ab")}
    result = merge("m", "searched", experts, {"evaluations": 8}, score=lambda _: 0.5)
    mean = merge("m", "delta_mean", experts)
    for module in SHAPES:
        close(dense(result, module), dense(mean, module))


# Factors ---------------------------------------------------------------------------------------


@some
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_factorize_is_the_best_approximation(seed, out, n, rank):
    matrix = torch.randn(out, n, generator=torch.Generator().manual_seed(seed))
    a, b, lost = factorize(matrix, rank)
    assert len(a) == b.shape[1] == min(rank, out, n)
    best = best_of_rank(matrix, rank)
    close((b @ a).float(), best)
    assert lost == pytest.approx(float((matrix - best).square().sum()), abs=1e-3)


@some
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(1, 9))
def test_truncate_is_the_best_approximation_of_a_product(seed, out, n, inner, rank):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(inner, n, generator=generator), torch.randn(out, inner, generator=generator)
    best = best_of_rank(b @ a, rank)
    left, right, lost = truncate(a, b, rank)
    close((right @ left).float(), best)
    assert lost == pytest.approx(float((b @ a - best).square().sum()), abs=1e-2)


# What cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "options", "says"),
    [
        ("ties", {"density": 0}, r"merges\.merged\.options: density is 0;"),
        ("ties", {"density": 1.5}, r"density is 1\.5; it must be less than or equal to 1"),
        ("dare", {"density": -0.1}, r"density is -0\.1"),
        ("ties", {"sign": "most"}, r"sign is 'most'; it must be one of: total, count"),
        ("svd", {"rank": -1}, r"rank is -1"),
        ("svd", {"rank": 2.5}, r"rank is 2\.5"),
        (
            "weighted",
            {"weights": {"e0": 1.0}},
            r"weights lacks e1; it must hold a number for each of: e0, e1",
        ),
        ("weighted", {"weights": {"e0": 1, "e1": 1, "e2": 1}}, r"weights names 'e2'; it must hold"),
        ("weighted", {"weights": {"e0": math.nan, "e1": 1}}, r"weights\.e0 is nan"),
        ("weighted", {"weights": {"e0": "1", "e1": 1}}, r"weights\.e0 is '1'"),
        ("weighted", {"scale": math.inf}, r"scale is inf"),
        ("weighted", {"density": 0.5}, r"unknown key density"),
        ("delta_mean", {"scale": 2.0}, r"delta_mean has no settings"),
        ("searched", {"evaluations": 0}, r"evaluations is 0"),
        ("regmean", {"ridge": -1.0}, r"ridge is -1"),
    ],
)
def test_impossible_options_are_one_line(operator, options, says):
    experts = [random_expert(0, 2), random_expert(1, 2)]
    with pytest.raises(UserError, match=says) as error:
        merged(operator, experts, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("operator", "says"),
    [
        (name, f"{name} needs {'a dev score' if name == 'searched' else 'calibration tokens'}")
        for name in variants.names("operators")
        if variants.constants("operators", name).get("NEEDS")
    ],
)
def test_an_operator_that_is_not_given_what_it_needs_says_so(operator, says):
    with pytest.raises(UserError, match=rf"merges\.m\.operator: {says}"):
        merge("m", operator, {"e0": random_expert(0, 2)})


@pytest.mark.parametrize("operator", ["regmean", "ssr"])
def test_statistics_without_an_inverse_are_one_line_without_a_ridge(operator):
    expert = random_expert(0, 2)
    sizes = {module: a[0].numel() for module, (a, _) in expert.factors.items()}

    def nothing(expert: str, *, pairs: int, seed: int, rows: dict | None = None) -> dict[str, torch.Tensor]:
        return {m: torch.zeros(2, 2) if rows else torch.zeros(n, n) for m, n in sizes.items()}

    with pytest.raises(UserError, match=f"{operator}'s statistics have no inverse; raise options.ridge"):
        merge("m", operator, {"e0": expert}, {"ridge": 0.0}, tokens=nothing)


@pytest.mark.parametrize("operator", variants.names("operators"))
def test_every_operator_says_what_it_is_and_takes_experts_of_any_rank(operator):
    module = variants.load("operators", operator, "operator")
    assert module.__doc__ and module.merge.__doc__
    experts = [random_expert(0, 1, 2.0), random_expert(1, 5, 0.25)]
    if operator == "factor_mean":
        with pytest.raises(UserError, match="has rank 5"):
            merged(operator, experts)
        return
    result = merged(operator, experts, equal=True, **WHOLE.get(operator, {}))
    assert all(factor.dtype == torch.float32 for pair in result.factors.values() for factor in pair)
    if operator not in ("ties", "knots", "svd"):  # those are no mean
        mean = merged("delta_mean", experts)
        for module in SHAPES:
            torch.testing.assert_close(dense(result, module), dense(mean, module), rtol=1e-3, atol=1e-3)


def test_moments_of_the_tests_differ_by_expert():
    first, second = (moments(random_expert(0, 1), seed) for seed in (0, 1))
    assert not any(torch.allclose(first[m], second[m]) for m in SHAPES)
    assert list(itertools.chain(first)) == list(SHAPES)
