"""Online self-improvement on tiny random pipelines, rewarded for what a pixel can tell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from selma.backbones.loading import load_pipeline
from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.images import sampler as plain
from selma.lora.adapter import fused, lora_parameters
from selma.lora.files import load_lora
from selma.policies.advantages import advantages
from selma.policies.learner import Learner, Round
from selma.policies.rounds import Progress, improve
from selma.policies.starting import start
from selma.policies.surrogate import log_densities
from selma.runtime import variants
from selma.runtime.params import Drawing, Policy, PolicyRow

ALGORITHMS = variants.names("algorithms")
TINY = ("tiny_backbone", "tiny_backbone_epsilon", "tiny_sdxl", "tiny_sdxl_v")
ITEMS = [
    Item(f"count-{i}", text, "count", "filter", ())
    for i, text in enumerate(("a cat", "two dogs", "red", "snow"))
]
POLICY = Policy(
    rank=4,
    alpha=4.0,
    targets=("to_q", "to_k", "to_v", "to_out.0"),
    weight_decay=0.0,
    max_grad_norm=1.0,
    prompts=4,
    group=6,
    drawing=Drawing("ddim", 4, 1.0, 100, 32),
    examine_every=2,
    images_per_prompt=1,
    average=0.5,
    least_diversity=0.0,
)
NEEDLESS = {"nft": {"kl": 0.0}, "awm": {"kl": 0.0, "hold": 0.0}, "dpok": {"kl": 0.0}}  # no start, no average


def learner(backbone: Path, name: str = "nft", policy: Policy = POLICY, **options: object) -> Learner:
    """A policy before its first round."""
    row = PolicyRow(name, str(backbone), "data/questions", {"red": 1.0}, 24, options=options)
    return start(load_pipeline(backbone), row, "policies.it", ITEMS, backbone, policy, seed=0)[0]


def redness(number: int, asked: Iterator, clean: Callable) -> tuple[torch.Tensor, dict[str, float]]:
    """How red a picture is, from -1 to 1."""
    found = [np.asarray(image, np.float32) / 255 for _, _, image in asked]
    return torch.tensor([(2 * one[..., 0] - one[..., 1] - one[..., 2]).mean() / 2 for one in found]), {}


def run(
    one: Learner, folder: Path, rounds: int, reward=redness, examine=lambda: ({}, {}), **options
) -> Progress:
    """Let it improve itself; also run, with other arguments, in the process that is killed below."""
    card = {"name": "it", "backbone": "x", "rank": 4, "alpha": 4.0, "targets": list(POLICY.targets)}
    return improve(
        one,
        ITEMS,
        reward,
        examine,
        one.policy,
        **{
            "images": rounds * one.policy.prompts * one.policy.group,
            "seed": 0,
            "folder": folder / "out",
            "state": folder / "state.safetensors",
            "provenance": card,
            **options,
        },
    )


def drawn_round(one: Learner) -> Round:
    """What the policy draws, with rewards that tell pictures apart."""
    shots = [item.prompt for item in ITEMS for _ in range(one.policy.group)]
    with one.drawing():
        parts = list(one.sampler.draw(shots, list(range(len(shots)))))
    path = None if parts[0].path is None else torch.cat([part.path for part in parts])
    rewards = torch.rand(len(ITEMS), one.policy.group, generator=torch.Generator().manual_seed(0))
    return Round(
        torch.tensor(one.sampler.rows(shots)), torch.cat([part.clean for part in parts]), path, rewards
    )


# Drawing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", (1.0, 3.0))
@pytest.mark.parametrize("backbone", TINY)
def test_a_rollout_without_noise_draws_the_samplers_pictures(
    backbone: str, guidance: float, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(backbone)
    drawing = Drawing("ddim", 5, guidance, 3, 32)
    one = learner(folder, policy=replace(POLICY, drawing=drawing))
    texts, seeds = [item.prompt for item in ITEMS], [5, 6, 7, 8]
    mine = [image for part in one.sampler.draw(texts, seeds) for image in part.images]
    theirs = [image for _, image in plain.draw(load_pipeline(folder), texts, seeds, drawing)]
    for a, b in zip(mine, theirs, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


@pytest.mark.parametrize("name", ("nft", "ddpo"))
def test_a_picture_does_not_depend_on_what_is_drawn_beside_it(tiny_backbone: Path, name: str) -> None:
    one = learner(tiny_backbone, name)
    texts, seeds = [item.prompt for item in ITEMS], [1, 2, 3, 4]
    together = torch.cat([part.clean for part in one.sampler.draw(texts, seeds)])
    alone = torch.cat([part.clean for part in one.sampler.draw(texts[2:3], seeds[2:3])])
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)


def test_noise_is_drawn_in_the_window_alone(tiny_backbone: Path) -> None:
    policy = replace(POLICY, drawing=replace(POLICY.drawing, steps=8))
    one = learner(tiny_backbone, "grpo", policy, start=0.25, end=0.5)
    assert one.sampler.noisy == [2, 3]
    found = drawn_round(one)
    assert found.path.shape[1] == 3  # before, between and after two steps
    everywhere = learner(tiny_backbone, "ddpo", policy)
    assert everywhere.sampler.noisy == list(range(8))  # DDIM ends on time step 0's own noise here


def test_the_adapter_is_fused_for_drawing_and_apart_again_behind_it(tiny_backbone: Path) -> None:
    one = learner(tiny_backbone)
    with torch.no_grad():
        for parameter in one.parameters.values():
            parameter.normal_(std=0.3)
    unet = one.sampler.denoiser.unet
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), one.sampler.texts.states[:2])
    apart = unet(*inputs).sample
    with fused(unet):
        torch.testing.assert_close(unet(*inputs).sample, apart, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(unet(*inputs).sample, apart)
    assert apart.requires_grad


# Learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_goes_through_every_kind_of_backbone(
    name: str, backbone: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """That each learns is tested where there is something to learn: tests/test_self_improvement.py."""
    guided = replace(POLICY, drawing=replace(POLICY.drawing, guidance=2.0))
    one = learner(request.getfixturevalue(backbone), name, guided, **NEEDLESS.get(name, {}))
    before = {key: value.detach().clone() for key, value in one.parameters.items()}
    found = run(one, tmp_path, rounds=2)
    assert [row["round"] for row in found.rows] == [0, 1, 2] and found.rows[2]["distance"] > 0
    assert not any(
        torch.equal(value, before[key]) for key, value in one.parameters.items() if "lora_B" in key
    )
    card = load_lora(tmp_path / "out/step-000002").provenance
    assert card["rounds"] == 2 and card["images"] == 2 * 24


@pytest.mark.parametrize(
    "name", [name for name in ALGORITHMS if variants.load("algorithms", name, name).STEPS]
)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_the_ratio_is_exactly_one_on_the_first_step(tiny_backbone: Path, name: str, dtype: str) -> None:
    pipe = load_pipeline(tiny_backbone, "cpu", dtype)
    row = PolicyRow(name, str(tiny_backbone), "data/questions", {"red": 1.0}, 24, options={"updates": 1})
    one = start(pipe, row, "policies.it", ITEMS, tiny_backbone, POLICY, seed=0)[0]
    ratios = []
    loss = one.algorithm.loss

    def watched(prediction: torch.Tensor, batch, settings) -> torch.Tensor:
        new, old = log_densities(prediction, batch)
        ratios.append((new - old).exp().detach())
        return loss(prediction, batch, settings)

    one.algorithm = type("Watched", (), {**vars(one.algorithm), "loss": staticmethod(watched)})
    one.learn(1, drawn_round(one))
    assert torch.equal(torch.cat(ratios), torch.ones(sum(map(len, ratios))))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_equal_rewards_teach_nothing(tiny_backbone: Path, name: str) -> None:
    one = learner(tiny_backbone, name, policy=replace(POLICY, weight_decay=0.1))
    before = {key: value.detach().clone() for key, value in one.parameters.items()}
    found = drawn_round(one)
    equal = torch.tensor([[0.1], [0.4], [0.4], [1.0]]).expand(
        4, 6
    )  # groups differ; no picture of a group does
    assert one.learn(1, Round(found.rows, found.clean, found.path, equal)) == 0
    assert all(torch.equal(value, before[key]) for key, value in one.parameters.items())


def test_the_old_adapter_follows_and_the_average_lags(tiny_backbone: Path) -> None:
    one = learner(
        tiny_backbone, "nft", replace(POLICY, average=0.75), old_rate=0.1, old_most=0.25, learning_rate=1e-2
    )
    first = {key: value.detach().clone() for key, value in one.parameters.items()}
    one.learn(2, drawn_round(one))  # round 2: decay 0.2
    for key, value in one.parameters.items():
        torch.testing.assert_close(one.copies["old"][key], 0.2 * first[key] + 0.8 * value)
        torch.testing.assert_close(one.copies["average"][key], 0.75 * first[key] + 0.25 * value)
        assert torch.equal(one.copies["start"][key], first[key])


def test_micro_batches_and_checkpointing_change_no_result(tiny_backbone: Path) -> None:
    ends = []
    for policy in (
        POLICY,
        replace(POLICY, batch=3),
        replace(POLICY, gradient_checkpointing=True),
    ):
        one = learner(tiny_backbone, "nft", policy, learning_rate=1e-2)
        one.learn(1, drawn_round(one))
        ends.append(torch.cat([value.detach().flatten() for value in one.parameters.values()]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], atol=2e-4, rtol=1e-3)


def test_a_base_in_half_precision_trains_a_float32_adapter(tiny_sdxl: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(tiny_sdxl, "cpu", "bfloat16")
    row = PolicyRow("nft", str(tiny_sdxl), "data/questions", {"red": 1.0}, 24)
    policy = replace(POLICY, gradient_checkpointing=True, batch=5)
    one = start(pipe, row, "policies.it", ITEMS, tiny_sdxl, policy, seed=0)[0]
    assert {value.dtype for value in one.parameters.values()} == {torch.float32}
    assert len(run(one, tmp_path, rounds=2).rows) == 3


def test_a_base_in_float16_is_refused(tiny_backbone: Path) -> None:
    row = PolicyRow("nft", str(tiny_backbone), "data/questions", {"red": 1.0}, 24)
    with pytest.raises(UserError, match="float16 gradients underflow"):
        start(
            load_pipeline(tiny_backbone, "cpu", "float16"),
            row,
            "policies.it",
            ITEMS,
            tiny_backbone,
            POLICY,
            0,
        )


def test_it_starts_from_an_experts_weights(tiny_backbone: Path, tmp_path: Path) -> None:
    first = learner(tiny_backbone, "nft", learning_rate=1e-2)
    run(first, tmp_path, rounds=2, provenance=card_of(tiny_backbone))
    folder = tmp_path / "out/step-000002"
    row = PolicyRow("nft", str(folder), "data/questions", {"red": 1.0}, 24)
    second, card = start(
        load_pipeline(tiny_backbone),
        row,
        "policies.it",
        ITEMS,
        tiny_backbone,
        replace(POLICY, rank=9),
        seed=3,
    )
    assert card["rank"] == 4 and card["start"] == str(folder)
    kept = load_lora(folder).state()
    for name, value in second.parameters.items():
        assert torch.equal(value, kept[name.replace(".default.", ".")])


def test_an_expert_of_another_backbone_is_refused(
    tiny_backbone: Path, tiny_backbone_epsilon: Path, tmp_path: Path
) -> None:
    run(learner(tiny_backbone), tmp_path, rounds=1, provenance=card_of(tiny_backbone))
    row = PolicyRow("nft", str(tmp_path / "out/step-000001"), "data/questions", {"red": 1.0}, 24)
    with pytest.raises(UserError, match="trained on a different backbone"):
        start(
            load_pipeline(tiny_backbone_epsilon), row, "policies.it", ITEMS, tiny_backbone_epsilon, POLICY, 0
        )


def card_of(backbone: Path) -> dict:
    from selma.backbones.loading import fingerprint

    return {"backbone": fingerprint(backbone), "rank": 4, "alpha": 4.0, "targets": list(POLICY.targets)}


# The rounds --------------------------------------------------------------------------------------


def test_checkpoints_are_numbered_by_rounds_and_examined(tiny_backbone: Path, tmp_path: Path) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.4])
    found = run(
        learner(tiny_backbone),
        tmp_path,
        rounds=5,
        examine=lambda: ((s := {"a": next(scores)}), {"dev": s["a"]}),
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"step-00000{number}" for number in (0, 2, 4, 5)
    ]
    assert found.dev == {0: {"a": 0.1}, 2: {"a": 0.3}, 4: {"a": 0.2}, 5: {"a": 0.4}}
    assert [row.get("dev") for row in found.rows] == [0.1, None, 0.3, None, 0.2, 0.4]
    assert [row["images"] for row in found.rows] == [0, 24, 48, 72, 96, 120]


def test_a_judge_that_says_nothing_is_one_line(tiny_backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 rounds in a row no picture .* reward is 0\.5"):
        run(
            learner(tiny_backbone),
            tmp_path,
            rounds=9,
            reward=lambda n, asked, clean: (torch.full((len(list(asked)),), 0.5), {}),
        )


def test_it_stops_where_a_prompts_pictures_grow_alike(tiny_backbone: Path, tmp_path: Path) -> None:
    policy = replace(POLICY, least_diversity=1.0, examine_every=100)
    found = run(learner(tiny_backbone, "nft", policy, learning_rate=5e-2), tmp_path, rounds=30)
    assert found.done < 30 and "policy.least_diversity" in found.stopped
    assert (
        tmp_path / f"out/step-{found.done:06d}"
    ).is_dir()  # where it stopped is there to be seen, never chosen
    assert found.candidates([0, found.done]) == [0] and Progress().candidates([0, 2]) == [0, 2]
    again = run(learner(tiny_backbone, "nft", policy, learning_rate=5e-2), tmp_path, rounds=30)
    assert again.record() == found.record()  # started again, it is stopped still


def test_it_stops_where_predictions_leave_the_start(tiny_backbone: Path, tmp_path: Path) -> None:
    policy = replace(POLICY, most_distance=1e-9)
    found = run(learner(tiny_backbone, "nft", policy), tmp_path, rounds=5)
    assert found.done == 1 and "policy.most_distance" in found.stopped


@pytest.mark.parametrize("name", ("nft", "awm", "ddpo"))
def test_a_killed_run_ends_in_the_same_bytes(tiny_backbone: Path, tmp_path: Path, name: str) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from tests.test_policies import learner, redness, run
calls = 0
def dying(number, asked, clean):
    if number == 4 and not os.environ.get("LIVE"):
        next(asked)
        os.kill(os.getpid(), signal.SIGKILL)  # in the middle of a round
    return redness(number, asked, clean)
run(learner(Path(sys.argv[1]), {name!r}), Path(sys.argv[2]), rounds=6, reward=dying)
"""

    def call(folder: str, **environment: str) -> int:
        words = [sys.executable, "-c", code, str(tiny_backbone), str(tmp_path / folder)]
        return subprocess.run(words, env={**os.environ, **environment}).returncode

    assert call("killed") == -signal.SIGKILL
    assert call("killed", LIVE="1") == 0 and call("whole", LIVE="1") == 0
    for path in sorted((tmp_path / "whole").rglob("*.*")):
        if path.is_file() and path.name != "state.safetensors":
            assert (
                path.read_bytes() == (tmp_path / "killed" / path.relative_to(tmp_path / "whole")).read_bytes()
            ), path


def test_rewards_are_compared_within_a_prompt_only(tiny_backbone: Path) -> None:
    """A prompt that is easy for everybody gets no credit for being easy."""
    rewards = torch.tensor([[0.0, 0.1], [0.9, 1.0]])
    assert torch.allclose(advantages(rewards)[0], advantages(rewards)[1], atol=1e-6)
    assert lora_parameters(learner(tiny_backbone).sampler.denoiser.unet)
