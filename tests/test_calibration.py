"""What layers read, and scores that are drawn: the two things that an operator may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from selma.backbones.loading import load_pipeline
from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.items import Item, Question, write_split
from selma.ground.pairs import Pair
from selma.judging.judge import load_judge
from selma.lora.files import LoraWeights, load_lora, save_lora
from selma.merging.calibration import calibration, moments, reading, sample
from selma.merging.merge import merge
from selma.runtime.params import Drawing
from selma.scoring import dev_score, exam
from selma.scoring.dev import dev_items
from selma.scoring.scores import item_scores
from tests.test_lora import random_lora

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["to_k", "proj_in", "conv1", "conv_in", "downsamplers.0.conv"]
QUESTION = Question("1", "Is there a circle?", ("yes", "no"), "yes", (), "shape")


def expert(backbone: Path, folder: Path, seed: int, targets: list[str] = ATTENTION) -> LoraWeights:
    save_lora(folder, *random_lora(backbone, rank=2, alpha=3.0, seed=seed, targets=targets))
    return load_lora(folder)


def images(folder: Path, count: int, colour: tuple[int, int, int] = (200, 40, 90)) -> list[Pair]:
    folder.mkdir(parents=True)
    found = []
    for i in range(count):
        Image.new("RGB", (32, 32), tuple((c + 37 * i) % 256 for c in colour)).save(folder / f"{i}.png")
        found.append(Pair(folder / f"{i}.png", f"{folder.name} number {i}", f"{folder.name}-{i}", i))
    return found


def unet_inputs(kind: str) -> dict:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    found = {"sample": draw(3, 4, 8, 8), "timestep": torch.tensor([3, 400, 900])}
    if kind == "tiny_backbone":
        return found | {"encoder_hidden_states": draw(3, 77, 16)}
    ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 3)
    added = {"text_embeds": draw(3, 20), "time_ids": ids}
    return found | {"encoder_hidden_states": draw(3, 77, 40), "added_cond_kwargs": added}


@pytest.mark.parametrize("targets", [ATTENTION, CONVOLUTIONS], ids=["attention", "convolutions"])
@pytest.mark.parametrize("kind", ["tiny_backbone", "tiny_sdxl"])
def test_what_is_read_is_what_the_layers_of_the_experts_own_model_read(kind, targets, tmp_path, request):
    backbone = request.getfixturevalue(kind)
    lora = expert(backbone, tmp_path / "lora", 0, targets)
    inputs = unet_inputs(kind)
    fused = load_pipeline(backbone, lora=tmp_path / "lora").unet
    seen: dict[str, torch.Tensor] = {}
    for module in lora.factors:
        fused.get_submodule(module).register_forward_pre_hook(
            lambda layer, given, module=module: seen.__setitem__(module, given[0])
        )
    unet = load_pipeline(backbone).unet
    rows = {m: torch.randn(3, a[0].numel()) for m, (a, _) in lora.factors.items()}
    with torch.no_grad():
        expected = fused(**inputs).sample
        with reading(unet, lora) as found:
            torch.testing.assert_close(unet(**inputs).sample, expected, rtol=1e-3, atol=1e-3)
        with reading(unet, lora, rows) as thin:
            unet(**inputs)
        plain = unet(**inputs).sample
        assert not torch.allclose(plain, expected, rtol=1e-2, atol=1e-2)  # the hooks are gone
    assert set(found) == set(thin) == set(lora.factors)
    for module, (a, _) in lora.factors.items():
        x, layer = seen[module], fused.get_submodule(module)
        if a.ndim == 4:  # the convolution itself says what a patch is: one kernel for each of its numbers
            units = torch.eye(a[0].numel()).view(-1, *a.shape[1:])
            x = torch.conv2d(x, units, None, layer.stride, layer.padding).movedim(1, -1)
        x = x.reshape(-1, a[0].numel())
        moment = x.T @ x / len(x)
        torch.testing.assert_close(found[module], moment, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(thin[module], rows[module] @ moment @ rows[module].T, rtol=1e-2, atol=1e-1)


def test_layers_that_read_the_same_share_one_tensor(tiny_sdxl, tmp_path):
    found = moments(
        load_pipeline(tiny_sdxl),
        expert(tiny_sdxl, tmp_path / "l", 0),
        images(tmp_path / "count", 2),
        seed=0,
    )
    blocks = {module.partition(".attn")[0] for module in found}
    for block in blocks:
        q, k, v = (found[f"{block}.attn1.to_{which}"] for which in "qkv")
        assert q is k is v and found[f"{block}.attn1.to_out.0"] is not q
    texts = {id(found[f"{block}.attn2.to_{which}"]) for block in blocks for which in "kv"}
    assert len(texts) == 1 and len(blocks) > 1


def test_calibration_is_a_function_of_seed_and_pairs_alone(tiny_backbone, tmp_path):
    pipe = load_pipeline(tiny_backbone)
    lora = expert(tiny_backbone, tmp_path / "lora", 0)
    pairs = images(tmp_path / "count", 5)
    tokens = calibration(pipe, {"count": lora}, {"count": pairs})
    reverse = calibration(pipe, {"count": lora}, {"count": pairs[::-1]})
    first = tokens("count", pairs=3, seed=0)
    for again in (tokens("count", pairs=3, seed=0), reverse("count", pairs=3, seed=0)):
        for module in first:
            torch.testing.assert_close(again[module], first[module], rtol=1e-4, atol=1e-4)
    assert len(sample(pairs, 3, 0)) == 3 and len(sample(pairs, 9, 0)) == 5
    assert {pair.id for seed in range(20) for pair in sample(pairs, 1, seed)} == {pair.id for pair in pairs}
    for other in (tokens("count", pairs=3, seed=1), tokens("count", pairs=5, seed=0)):
        assert any(not torch.allclose(other[m], first[m], rtol=1e-2) for m in first)


def test_batches_change_nothing(tiny_backbone, tmp_path, monkeypatch):
    from selma.merging import calibration as module

    pipe, pairs = load_pipeline(tiny_backbone), images(tmp_path / "count", 5)
    lora = expert(tiny_backbone, tmp_path / "lora", 0)
    whole = moments(pipe, lora, pairs, seed=0)
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 8 * 8)
    for name, moment in moments(pipe, lora, pairs, seed=0).items():
        torch.testing.assert_close(moment, whole[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("operator", ["regmean", "ssr"])
def test_experts_of_one_set_of_images_and_one_model_merge_to_their_mean(operator, tiny_backbone, tmp_path):
    pairs = images(tmp_path / "count", 4)
    lora = expert(tiny_backbone, tmp_path / "lora", 0)
    still = LoraWeights({m: (a, b * 1e-6) for m, (a, b) in lora.factors.items()}, 1.0, lora.provenance)
    other = expert(tiny_backbone, tmp_path / "other", 1)
    quiet = LoraWeights({m: (a, b * 1e-6) for m, (a, b) in other.factors.items()}, 1.0, lora.provenance)
    experts = {"a": still, "b": quiet}
    tokens = calibration(load_pipeline(tiny_backbone), experts, {"a": pairs, "b": pairs})
    result, mean = (merge("m", name, experts, tokens=tokens) for name in (operator, "delta_mean"))
    for module in result.factors:
        scale = float(mean.delta(module).abs().max())
        torch.testing.assert_close(
            result.delta(module) / scale, mean.delta(module) / scale, rtol=1e-2, atol=1e-2
        )


def test_an_expert_without_images_is_named_before_anything_runs(tiny_backbone, tmp_path):
    lora = expert(tiny_backbone, tmp_path / "lora", 0)
    with pytest.raises(UserError, match="calibration: expert tags has no images"):
        calibration(None, {"count": lora, "tags": lora}, {"count": [object()], "tags": []})


def test_activations_that_are_not_finite_are_named(tiny_backbone, tmp_path):
    pipe = load_pipeline(tiny_backbone)
    pipe.unet.get_submodule("mid_block.attentions.0.norm").weight.fill_(torch.inf)
    with pytest.raises(UserError, match=r"calibration: what .* reads is not finite"):
        moments(pipe, expert(tiny_backbone, tmp_path / "lora", 0), images(tmp_path / "count", 1), seed=0)


def items(split: str) -> list[Item]:
    return [Item(f"{i}-{split}", f"a {split} circle {i}", "count", "shapes", (QUESTION,)) for i in range(3)]


def test_the_dev_score_is_that_of_the_saved_lora_and_is_kept(
    tiny_backbone, make_project, monkeypatch, tmp_path
):
    monkeypatch.chdir(make_project("project", {"expert.backbone": "tiny"}))
    lora = expert(tiny_backbone, tmp_path / "lora", 0)
    judge, drawing = load_judge("oracle", "cpu", "float32"), Drawing("ddim", 2, 2.0, 4, 32)
    settings = {"images": 2, "seed": 7, "kept": tmp_path / "scores.json"}
    score = dev_score.dev_scorer(tiny_backbone, judge, items("dev"), drawing, **settings)
    pipe = load_pipeline(tiny_backbone, lora=tmp_path / "lora")
    drawn = exam.draw(pipe, items("dev"), drawing, images=2, seed=7)
    expected = item_scores(exam.faithfulness(judge, items("dev"), drawn, where=""))
    assert score(lora) == pytest.approx(sum(expected.values()) / 3)

    def nothing(*_: object, **__: object) -> None:
        raise AssertionError("drawn twice")

    monkeypatch.setattr(exam, "draw", nothing)
    again = dev_score.dev_scorer(tiny_backbone, judge, items("dev"), drawing, **settings)
    assert again(lora) == score(lora)
    with pytest.raises(AssertionError, match="drawn twice"):
        again(expert(tiny_backbone, tmp_path / "other", 1))


def test_a_merge_is_scored_by_all_experts_held_out_prompts_or_by_the_dev_split(tmp_path):
    benchmark = tmp_path / "benchmark"
    for split in ("dev", "test"):
        write_split(benchmark, split, items(split))
    for skill in ("count", "tags"):
        write_jsonl(
            tmp_path / skill / "held_out.jsonl", [{"id": f"{skill}-1", "text": f"a circle of {skill}"}]
        )
    folders = [(tmp_path / name, None) for name in ("count", "tags", "tags")]
    found, held_out = dev_items(folders, benchmark)
    assert held_out and [item.id for item in found] == ["count-1", "tags-1"]
    (tmp_path / "none").mkdir()
    found, held_out = dev_items([*folders, (tmp_path / "none", None)], benchmark)
    assert not held_out and [item.prompt for item in found] == [item.prompt for item in items("dev")]
    with pytest.raises(UserError, match="no dev split"):
        dev_items([(tmp_path / "none", None)], tmp_path / "tags")
