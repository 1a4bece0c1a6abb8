"""Key names against the layouts that ComfyUI and A1111 read, derived here from the original UNet's own numbering."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
import torch

from selma.ground.errors import UserError
from selma.lora import kohya
from selma.lora.files import LoraWeights
from tests.unets import SD2, SD14, SDXL

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
PARTS = ("lora_down.weight", "lora_up.weight", "alpha")
UNETS: dict[str, dict[str, Any]] = {"sd14": SD14, "sd2": SD2, "sdxl": SDXL}
# Of the original UNet: transformer layers on each level and in the middle.
DEPTHS = {"sd14": ((1, 1, 1, 0), 1), "sd2": ((1, 1, 1, 0), 1), "sdxl": ((0, 2, 10), 10)}

each_base = pytest.mark.parametrize("base", UNETS)


class Layer(NamedTuple):
    """One attention projection: its name in diffusers, in the original UNet, and its size."""

    diffusers: str
    original: str
    inputs: int
    outputs: int


@pytest.fixture(scope="module")
def loras() -> dict[str, tuple[dict[str, Any], LoraWeights]]:
    """Every full-size UNet's config, and a LoRA of rank 2 on all of its attention projections."""
    from diffusers import UNet2DConditionModel

    made = {}
    for base, own in UNETS.items():
        with torch.device("meta"):
            unet = UNet2DConditionModel(**own)
        factors = {
            name: (torch.zeros(2, layer.in_features), torch.zeros(layer.out_features, 2))
            for name, layer in unet.named_modules()
            if name.endswith(TARGETS)
        }
        made[base] = (dict(unet.config), LoraWeights(factors, 0.5, {}))
    return made


def original_layers(base: str) -> list[Layer]:
    """The attention projections, counted block by block in the order in which the original UNet appends them."""
    channels = UNETS[base]["block_out_channels"]
    depths, middle = DEPTHS[base]
    states = UNETS[base]["cross_attention_dim"]
    found: list[Layer] = []

    def append(diffusers: str, original: str, width: int, depth: int) -> None:
        for block in range(depth):
            for attention, context in (("attn1", width), ("attn2", states)):
                for target in TARGETS:
                    rest = f"transformer_blocks.{block}.{attention}.{target}"
                    inputs = context if target in ("to_k", "to_v") else width
                    found.append(Layer(f"{diffusers}.{rest}", f"{original}.{rest}", inputs, width))

    count = 1  # input_blocks.0 is the first convolution
    for level, width in enumerate(channels):
        for i in range(2):
            append(f"down_blocks.{level}.attentions.{i}", f"input_blocks.{count}.1", width, depths[level])
            count += 1
        count += 1  # the downsampler; the last level has none, and nothing comes after it
    append("mid_block.attentions.0", "middle_block.1", channels[-1], middle)
    count = 0
    for block, level in enumerate(reversed(range(len(channels)))):
        for i in range(3):
            path = f"up_blocks.{block}.attentions.{i}"
            append(path, f"output_blocks.{count}.1", channels[level], depths[level])
            count += 1
    return found


# A ResNet's layers in the original UNet, in the order in which it appends them: in_layers and out_layers are
# norm, SiLU (, dropout), convolution; emb_layers are SiLU, linear.
RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original_convolutions(base: str) -> dict[str, str]:
    """diffusers' names of the ResNets and resamplers -> the original UNet's, counted as it appends them."""
    channels, (depths, _) = UNETS[base]["block_out_channels"], DEPTHS[base]
    last, found, count = len(channels) - 1, {}, 1
    for level in range(len(channels)):
        for i in range(2):
            found[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{count}.0"
            count += 1
        if level < last:
            found[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{count}.0.op"
            count += 1
    found |= {f"mid_block.resnets.{i}": f"middle_block.{2 * i}" for i in (0, 1)}
    count = 0
    for block, level in enumerate(reversed(range(len(channels)))):
        for i in range(3):
            found[f"up_blocks.{block}.resnets.{i}"] = f"output_blocks.{count}.0"
            if i == 2 and block < last:  # after the attention, where there is one
                place = 2 if depths[level] else 1
                found[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{count}.{place}.conv"
            count += 1
    return found


@each_base
def test_every_resnet_and_resampler_has_the_original_unets_name_in_sdxl_and_diffusers_own_elsewhere(
    base, loras
):
    from diffusers import UNet2DConditionModel

    unet, _ = loras[base]
    with torch.device("meta"):
        layers = [
            name
            for name, layer in UNet2DConditionModel(**UNETS[base]).named_modules()
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
            and re.search(r"\.(resnets|downsamplers|upsamplers)\.", name)
        ]
    assert len(layers) > 60
    originals = original_convolutions(base)
    for module in layers:
        original = originals.get(module)
        if original is None:
            resnet, _, rest = module.rpartition(".")
            original = f"{originals[resnet]}.{RESNET[rest]}"
        expected = original if base == "sdxl" else module
        assert kohya.layer_name(module, unet) == "lora_unet_" + expected.replace(".", "_")


def read_by_comfyui(base: str) -> dict[str, Layer]:
    """ComfyUI takes the original UNet's names and diffusers' own, dots as underscores, after `lora_unet_`."""
    names = {}
    for layer in original_layers(base):
        for name in (layer.original, layer.diffusers):
            names["lora_unet_" + name.replace(".", "_")] = layer
    return names


def found_by_a1111(name: str, base: str) -> Layer | None:
    """A1111 turns a diffusers name into the original one by a fixed stride of 3, and takes another as it is."""
    layers = {"diffusion_model_" + layer.original.replace(".", "_"): layer for layer in original_layers(base)}
    side = re.fullmatch(r"lora_unet_(down|up)_blocks_(\d+)_attentions_(\d+)_(.+)", name)
    if side:
        block, i = int(side[2]), int(side[3])
        row = f"input_blocks_{1 + 3 * block + i}" if side[1] == "down" else f"output_blocks_{3 * block + i}"
        return layers.get(f"diffusion_model_{row}_1_{side[4]}")
    middle = re.sub(r"lora_unet_mid_block_attentions_0_", "diffusion_model_middle_block_1_", name)
    return layers.get(middle.replace("lora_unet_", "diffusion_model_"))


def exported(unet: dict[str, Any], weights: LoraWeights) -> dict[str, dict[str, torch.Tensor]]:
    """The file's tensors by layer name: {name: {down, up, alpha}}."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in kohya.tensors(weights, unet, "float16").items():
        name, part = key.split(".", 1)
        found.setdefault(name, {})[part] = tensor
    return found


@each_base
def test_every_attention_projection_has_the_name_that_both_tools_read_for_it(base, loras) -> None:
    unet, weights = loras[base]
    names, file = read_by_comfyui(base), exported(unet, weights)
    assert len(file) == len(weights.factors) == {"sd14": 128, "sd2": 128, "sdxl": 560}[base]
    for module, (a, b) in weights.factors.items():
        name = kohya.layer_name(module, unet)
        layer = names[name]
        assert layer.diffusers == module
        assert (a.shape[1], b.shape[0]) == (layer.inputs, layer.outputs)
        assert found_by_a1111(name, base) == layer
        assert file[name].keys() == set(PARTS)
    style = "original" if base == "sdxl" else "diffusers"
    written = {"lora_unet_" + getattr(layer, style).replace(".", "_") for layer in original_layers(base)}
    assert file.keys() == written, "SDXL files bear the original UNet's names, the others diffusers'"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("down_blocks.1.attentions.0", "input_blocks_4_1"),
        ("down_blocks.2.attentions.1", "input_blocks_8_1"),
        ("mid_block.attentions.0", "middle_block_1"),
        ("up_blocks.0.attentions.2", "output_blocks_2_1"),
        ("up_blocks.1.attentions.0", "output_blocks_3_1"),
    ],
)
def test_names_of_sdxl(module: str, name: str) -> None:
    unet = {"addition_embed_type": "text_time", "layers_per_block": 2}
    rest = "transformer_blocks.0.attn2.to_out.0"
    assert kohya.layer_name(f"{module}.{rest}", unet) == f"lora_unet_{name}_{rest.replace('.', '_')}"


def test_down_is_a_up_is_b_and_alpha_gives_the_scaling_back() -> None:
    module = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    a, b = torch.randn(4, 6), torch.randn(8, 4)
    file = kohya.tensors(LoraWeights({module: (a, b)}, 2.5, {}), {}, "float32")
    down, up, alpha = (file[f"{kohya.layer_name(module, {})}.{part}"] for part in PARTS)
    torch.testing.assert_close(alpha / down.shape[0] * up @ down, 2.5 * b @ a)
    assert alpha.ndim == 0


def test_a_convolutions_down_has_its_kernel_and_its_up_has_none() -> None:
    module = "mid_block.resnets.0.conv1"
    a, b = torch.randn(4, 6, 3, 3), torch.randn(8, 4, 1, 1)
    lora = LoraWeights({module: (a, b)}, 2.5, {})
    down, up, alpha = (
        kohya.tensors(lora, {}, "float32")[f"lora_unet_mid_block_resnets_0_conv1.{p}"] for p in PARTS
    )
    # as kohya's own LoCon adds it to a layer: two convolutions, one after the other
    x = torch.randn(1, 6, 5, 5)
    ours = torch.nn.functional.conv2d(x, lora.delta(module), padding=1)
    theirs = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=1), up) * (alpha / 4)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "module", ["conv_in", "conv_out", "time_embedding.linear_1", "add_embedding.linear_1"]
)
def test_a_layer_that_not_every_tool_reads_is_refused(module: str) -> None:
    with pytest.raises(UserError, match=rf"{module}.*--format diffusers"):
        kohya.layer_name(module, {})


def test_what_half_precision_cannot_hold_is_refused() -> None:
    module = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = LoraWeights({module: (torch.full((2, 4), 1e6), torch.zeros(4, 2))}, 1.0, {})
    with pytest.raises(UserError, match=r"to_q.*--dtype float32"):
        kohya.tensors(weights, {}, "float16")
    assert kohya.tensors(weights, {}, "float32")


@pytest.mark.parametrize(
    ("base", "prediction", "expected"),
    [
        ("sd14", "epsilon", ("sd_v1", "False", "stable-diffusion-v1/lora", "512x512", "epsilon")),
        ("sd2", "epsilon", ("sd_v2", "True", "stable-diffusion-v2-512/lora", "512x512", "epsilon")),
        ("sd2", "v_prediction", ("sd_v2_v", "True", "stable-diffusion-v2-768-v/lora", "512x512", "v")),
        (
            "sdxl",
            "epsilon",
            ("sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora", "1024x1024", "epsilon"),
        ),
    ],
)
def test_the_metadata_names_the_base_as_the_tools_expect(base, prediction, expected, loras) -> None:
    unet, weights = loras[base]
    found = describe(weights, unet, prediction)
    keys = ("ss_base_model_version", "ss_v2", "modelspec.architecture", "modelspec.resolution")
    assert tuple(found[key] for key in (*keys, "modelspec.prediction_type")) == expected
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("2", "1.0")
    assert {"modelspec.sai_model_spec", "modelspec.implementation", "modelspec.title"} <= found.keys()
    assert found["modelspec.license"] == "openrail"
    assert all(isinstance(value, str) for value in found.values()), "safetensors holds strings alone"


def test_an_unknown_base_is_not_called_by_the_name_of_a_known_one(loras) -> None:
    unet, weights = loras["sd14"]
    for other in ({"block_out_channels": [64, 128]}, {"cross_attention_dim": 128}):
        found = describe(weights, {**unet, **other}, "epsilon")
        assert not [key for key in found if key.startswith("modelspec.") or "v2" in key or "base" in key]


def describe(weights: LoraWeights, unet: dict[str, Any], prediction: str) -> dict[str, str]:
    return kohya.metadata(
        weights,
        unet,
        name="selma-x-merged",
        title="SELMA",
        prediction_type=prediction,
        licence="openrail",
    )
