from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from selma.backbones.loading import fingerprint, load_pipeline
from selma.ground.errors import UserError
from selma.lora.adapter import add_lora, lora_parameters, lora_state
from selma.lora.files import CARD, WEIGHTS, load_lora, save_lora, sort_header
from tests.unets import KNOWN

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def random_lora(
    backbone: Path, rank: int = 4, alpha: float = 4.0, seed: int = 0, targets: list[str] = TARGETS
) -> tuple[dict, dict]:
    """State and provenance of a LoRA with random A and B."""
    unet = load_pipeline(backbone).unet
    add_lora(unet, rank, alpha, targets, seed)
    generator = torch.Generator().manual_seed(seed)
    state = {k: torch.randn(v.shape, generator=generator) * 0.3 for k, v in lora_state(unet).items()}
    provenance = {
        "name": "count",
        "backbone": fingerprint(backbone),
        "rank": rank,
        "alpha": alpha,
        "targets": targets,
    }
    return state, provenance


def test_only_the_adapter_trains_in_float32_and_starts_as_nothing(tiny_backbone):
    unet = load_pipeline(tiny_backbone, dtype="bfloat16").unet
    inputs = [x.bfloat16() for x in (torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 77, 16))]
    before = unet(*inputs).sample
    add_lora(unet, 4, 4.0, TARGETS, seed=0)
    trainable = lora_parameters(unet)
    assert trainable and all("lora_" in name for name in trainable)
    assert {parameter.dtype for parameter in trainable.values()} == {torch.float32}
    assert torch.equal(unet(*inputs).sample, before)


def test_the_same_seed_gives_the_same_a_and_leaves_the_global_generator_alone(tiny_backbone):
    state = torch.random.get_rng_state()
    firsts = []
    for seed in (1, 1, 2):
        unet = load_pipeline(tiny_backbone).unet
        state = torch.random.get_rng_state()
        add_lora(unet, 4, 4.0, TARGETS, seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        firsts.append({k: v for k, v in lora_state(unet).items() if "lora_A" in k})
    assert all(torch.equal(firsts[0][key], firsts[1][key]) for key in firsts[0])
    assert all(not torch.equal(firsts[0][key], firsts[2][key]) for key in firsts[0])


@pytest.mark.parametrize(
    ("rank", "targets", "named"),
    [
        (0, TARGETS, r"expert\.rank: 0"),
        (10**12, TARGETS, r"expert\.rank: 1000000000000: needs [0-9,]+ GB of memory"),
        (4, ["to_q", "to_qq"], r"'to_qq' is not a layer"),
        (4, ["to_q", "norm1"], r"'norm1' names down_blocks\.0\.resnets\.0\.norm1, a GroupNorm; allowed: Lin"),
        (4, ["norm2"], r"'norm2' names .*, a (GroupNorm|LayerNorm); allowed: Linear and Conv2d"),
        (4, ["attn1"], r"'attn1' names .*, a Attention; allowed: Linear and Conv2d"),
        (4, ["to_out"], r"'to_out' names .*, a ModuleList; allowed: Linear and Conv2d"),
        (4, ["nonlinearity"], r"'nonlinearity' names .*, a SiLU; allowed: Linear and Conv2d"),
    ],
)
def test_an_impossible_adapter_is_named(tiny_backbone, rank, targets, named):
    with pytest.raises(UserError, match=named):
        add_lora(load_pipeline(tiny_backbone).unet, rank, 4.0, targets, seed=0)


def test_a_grouped_convolution_is_refused():
    unet = torch.nn.Sequential()
    unet.add_module("conv", torch.nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(UserError, match="'conv' names conv, a grouped Conv2d; allowed"):
        add_lora(unet, 1, 1.0, ["conv"], seed=0)


CONVOLUTIONS = ["to_q", "proj_in", "conv1", "conv_shortcut", "downsamplers.0.conv", "conv_in"]


@pytest.mark.parametrize("targets", [TARGETS, CONVOLUTIONS], ids=["attention", "convolutions"])
@pytest.mark.parametrize("alpha", [4.0, 10.0])
def test_diffusers_opens_it_at_weight_1_as_base_plus_the_dense_delta(tiny_backbone, tmp_path, alpha, targets):
    state, provenance = random_lora(tiny_backbone, alpha=alpha, targets=targets)
    save_lora(tmp_path / "lora", state, provenance)
    weights = load_lora(tmp_path / "lora")
    pipe = load_pipeline(tiny_backbone)
    pipe.load_lora_weights(tmp_path / "lora")
    dense = load_pipeline(tiny_backbone).unet
    for module in weights.factors:
        dense.get_submodule(module).weight += weights.delta(module)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 77, 16)
    ours = load_pipeline(tiny_backbone, lora=tmp_path / "lora").unet  # fused
    with torch.inference_mode():
        expected = dense(*inputs).sample
        for unet in (pipe.unet, ours):
            torch.testing.assert_close(unet(*inputs).sample, expected, rtol=1e-3, atol=1e-3)


def test_it_reads_back_what_was_written(tiny_backbone, tmp_path):
    state, provenance = random_lora(tiny_backbone, rank=3, alpha=6.0)
    save_lora(tmp_path, state, provenance)
    weights = load_lora(tmp_path)
    assert (weights.rank, weights.scaling, weights.provenance) == (3, 2.0, provenance)
    assert weights.state().keys() == state.keys()
    assert all(torch.equal(weights.state()[key], state[key]) for key in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_half_the_size_and_read_as_float32(tiny_backbone, tmp_path, dtype):
    state, provenance = random_lora(tiny_backbone)
    save_lora(tmp_path / "whole", state, provenance)
    save_lora(tmp_path / "half", state, provenance, dtype)
    sizes = [
        sum(t.nbytes for t in load_file(tmp_path / name / WEIGHTS).values()) for name in ("whole", "half")
    ]
    assert sizes[0] == 2 * sizes[1]
    read = load_lora(tmp_path / "half").state()
    assert all(torch.equal(read[key], state[key].to(dtype).float()) for key in state)
    pipe = load_pipeline(tiny_backbone, lora=tmp_path / "half")
    dense = load_pipeline(tiny_backbone).unet
    for module in load_lora(tmp_path / "half").factors:
        dense.get_submodule(module).weight += load_lora(tmp_path / "half").delta(module)
        torch.testing.assert_close(pipe.unet.get_submodule(module).weight, dense.get_submodule(module).weight)


def test_the_same_lora_is_the_same_bytes(tiny_backbone, tmp_path):
    # safetensors writes its metadata in a random order; several writes to catch it
    state, provenance = random_lora(tiny_backbone)
    for i in range(8):
        save_lora(tmp_path / str(i), dict(reversed(state.items())) if i % 2 else state, provenance)
    for name in (WEIGHTS, CARD):
        assert len({(tmp_path / str(i) / name).read_bytes() for i in range(8)}) == 1


def test_the_file_is_the_one_diffusers_writes(tiny_backbone, tmp_path):
    from diffusers import StableDiffusionPipeline

    state, provenance = random_lora(tiny_backbone, alpha=7.0)
    save_lora(tmp_path / "ours", state, provenance)
    metadata = {"r": 4, "lora_alpha": 7.0, "target_modules": sorted(TARGETS)}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "theirs", unet_lora_layers=state, unet_lora_adapter_metadata=metadata
    )
    contents = []
    for name in ("ours", "theirs"):
        with safe_open(tmp_path / name / WEIGHTS, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
            contents.append((file.metadata(), tensors))
    (our_metadata, ours), (their_metadata, theirs) = contents
    assert our_metadata == their_metadata
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_values_that_the_files_precision_cannot_hold_are_not_written(tiny_backbone, tmp_path):
    state, provenance = random_lora(tiny_backbone)
    key = next(iter(state))
    large = {**state, key: state[key] * 1e6}
    with pytest.raises(UserError, match=r"too large for float16; this LoRA is not written"):
        save_lora(tmp_path / "lora", large, provenance, torch.float16)
    with pytest.raises(UserError, match="not finite"):
        save_lora(tmp_path / "lora", {**state, key: state[key] * float("nan")}, provenance)
    assert not (tmp_path / "lora").exists()
    save_lora(tmp_path / "lora", large, provenance)


@pytest.mark.parametrize(("name", "millions"), [("sd14", 25.5), ("sd2", 26.6), ("sdxl", 185.8)])
def test_the_papers_adapters_have_the_papers_size(name, millions):
    """At rank 128 on to_q, to_k, to_v and to_out.0 of the full-size UNets, on the meta device: no weights."""
    from diffusers import UNet2DConditionModel

    config, parameters, blocks = KNOWN[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
        add_lora(unet, 128, 128.0, TARGETS, seed=0)
    trained = lora_parameters(unet)
    assert round(sum(parameter.numel() for parameter in trained.values()) / 1e6, 1) == millions
    adapted = {key.rsplit(".lora_", 1)[0] for key in trained}
    assert len(adapted) == blocks * 2 * 4 and len(trained) == 2 * len(adapted)
    assert all(".transformer_blocks." in module for module in adapted)
    ends = {module.split(".transformer_blocks.")[1].partition(".")[2] for module in adapted}
    assert ends == {f"{attention}.{to}" for attention in ("attn1", "attn2") for to in TARGETS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_file_is_to_the_byte_the_one_safetensors_writes_with_its_header_sorted(
    tiny_backbone, tmp_path, dtype
):
    from safetensors.torch import save

    state, provenance = random_lora(tiny_backbone, targets=CONVOLUTIONS)
    state = {
        key: value.mT if value.shape[-1] > 1 else value for key, value in state.items()
    }  # not contiguous
    save_lora(tmp_path, state, provenance, dtype)
    with safe_open(tmp_path / WEIGHTS, "pt") as opened:
        metadata = opened.metadata()
    tensors = {f"unet.{key}": value.to(dtype).contiguous() for key, value in state.items()}
    assert (tmp_path / WEIGHTS).read_bytes() == sort_header(save(tensors, metadata))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float16, 2), (torch.bfloat16, 2)])
def test_half_precision_stays_so_in_memory_and_reads_as_float32(tiny_backbone, tmp_path, dtype, size):
    state, provenance = random_lora(tiny_backbone)
    save_lora(tmp_path, state, provenance, dtype)
    factors = load_lora(tmp_path).factors
    assert {kept.element_size() for pair in factors._kept.values() for kept in pair} == {size}
    assert len(factors) == len(list(factors)) == len(state) // 2
    for module, (a, b) in factors.items():
        for part, factor in (("A", a), ("B", b)):
            expected = state[f"{module}.lora_{part}.weight"].to(dtype).float()
            assert factor.dtype == torch.float32 and torch.equal(factor, expected)
