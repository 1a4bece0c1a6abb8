"""Exported LoRAs against full-size configs: whatever is in a file, each tool finds the layer that it is for.

Every linear layer and convolution of the UNet's blocks and of the text encoders has a LoRA here. The names that a tool
looks for are derived from the rules that it goes by, never from our own code:

    ComfyUI, Forge  comfy/lora.py and utils.py: the original UNet's names, and diffusers' own, after lora_unet_; text
                    encoders by transformers' names after lora_te_, and after lora_te1_ and lora_te2_ in SDXL
    A1111           extensions-builtin/Lora/networks.py: diffusers' names by a stride of three, others as they are;
                    OpenCLIP's encoders by that library's names, of which it takes an attention as a whole or not at all
    kohya           sd-scripts' networks/lora.py: modules of the blocks' classes; SDXL's UNet has the original names
    diffusers, peft their own loaders
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from selma.ground.adapters import TEXT_ENCODERS, WEIGHTS
from selma.lora import kohya
from selma.lora.files import LoraWeights, save_lora
from tests.test_kohya import DEPTHS, RESNET, UNETS, original_convolutions

# Layers, width and inner width of each base's text encoders; those of OpenCLIP bear its names in the original models.
CLIP_L, OPENCLIP_H, OPENCLIP_G = (12, 768, 3072), (23, 1024, 4096), (32, 1280, 5120)
TEXTS = {"sd14": (CLIP_L,), "sd2": (OPENCLIP_H,), "sdxl": (CLIP_L, OPENCLIP_G)}
TEXT_LAYERS = (
    *(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")),
    "mlp.fc1",
    "mlp.fc2",
)
PARTS = ("lora_down.weight", "lora_up.weight", "alpha")

each_base = pytest.mark.parametrize("base", UNETS)


class Export(NamedTuple):
    """A base's UNet config, a LoRA on every layer, and its kohya file's tensors."""

    unet: dict[str, Any]
    weights: LoraWeights
    file: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def exports() -> dict[str, Export]:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    made = {}
    for base, own in UNETS.items():
        with torch.device("meta"):
            unet = UNet2DConditionModel(**own)
            encoders = [
                CLIPTextModel(
                    CLIPTextConfig(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers)
                )
                for layers, width, inner in TEXTS[base]
            ]
        factors = dict(_factors(unet, r"(down|up)_blocks\.|mid_block\."))
        for part, encoder in zip(TEXT_ENCODERS, encoders, strict=False):
            for name, factor in _factors(encoder, r"(text_model\.)?encoder\.layers\."):
                factors[f"{part}.text_model.{name.removeprefix('text_model.')}"] = factor
        weights = LoraWeights(factors, 0.5, {})
        made[base] = Export(dict(unet.config), weights, kohya.tensors(weights, dict(unet.config), "float16"))
    return made


def _factors(model: torch.nn.Module, under: str) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor]]]:
    """A LoRA of rank 1 on every linear layer and convolution whose name begins so."""
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and re.match(under, name):
            rows, columns, *kernel = layer.weight.shape
            yield name, (torch.zeros(1, columns, *kernel), torch.zeros(rows, 1, *(1 for _ in kernel)))


def original(base: str, module: str) -> str:
    """The original UNet's name of a layer of diffusers', by counting as it appends blocks (tests/test_kohya.py)."""
    convolutions = original_convolutions(base)
    if module in convolutions:
        return convolutions[module]
    place, _, rest = module.rpartition(".")
    if place in convolutions:
        return f"{convolutions[place]}.{RESNET[rest]}"
    place, rest = re.fullmatch(r"(.*attentions\.\d+)\.(.+)", module).groups()
    row = convolutions[
        place.replace("attentions", "resnets")
    ]  # a block's attention is its ResNet's neighbour
    return f"{row.rpartition('.')[0]}.1.{rest}"


def text_names(base: str) -> Iterator[tuple[int, int, str]]:
    """Which encoder, from 0, which of its layers, and transformers' name within it."""
    for encoder, (layers, _, _) in enumerate(TEXTS[base]):
        for layer in range(layers):
            for name in TEXT_LAYERS:
                yield encoder, layer, name


def layers_of(export: Export) -> list[str]:
    """The UNet's layers that have a LoRA."""
    return [name for name in export.weights.factors if not name.startswith(TEXT_ENCODERS)]


def comfyui(base: str, export: Export) -> dict[str, str]:
    """What ComfyUI looks for in a file -> the layer that it is added to."""
    found = {}
    for module in layers_of(export):
        for name in (original(base, module), module):
            found["lora_unet_" + name.replace(".", "_")] = module
    for encoder, layer, name in text_names(base):
        prefixes = ("lora_te", "lora_te1") if len(TEXTS[base]) == 1 else (f"lora_te{encoder + 1}",)
        for prefix in prefixes:
            key = f"{prefix}_text_model_encoder_layers_{layer}_{name.replace('.', '_')}"
            found[key] = f"{TEXT_ENCODERS[encoder]}.text_model.encoder.layers.{layer}.{name}"
    return found


def sd_scripts(base: str, export: Export) -> dict[str, str]:
    """The names that kohya's trainer gives its LoRA modules, and finds again."""
    found = {}
    for module in layers_of(export):
        name = original(base, module) if base == "sdxl" else module
        found["lora_unet_" + name.replace(".", "_")] = module
    for encoder, layer, name in text_names(base):
        prefix = "lora_te" if len(TEXTS[base]) == 1 else f"lora_te{encoder + 1}"
        key = f"{prefix}_text_model_encoder_layers_{layer}_{name.replace('.', '_')}"
        found[key] = f"{TEXT_ENCODERS[encoder]}.text_model.encoder.layers.{layer}.{name}"
    return found


@each_base
@pytest.mark.parametrize("tool", [comfyui, sd_scripts])
def test_every_key_is_a_layers_and_every_layer_has_its_keys(tool, base, exports) -> None:
    export = exports[base]
    wanted = tool(base, export)
    consumed = {f"{name}.{part}" for name in wanted for part in PARTS} & export.file.keys()
    assert not export.file.keys() - consumed, "a key that the tool does not load"
    assert len(export.file) == 3 * len(export.weights.factors)
    reached: dict[str, str] = {}
    for key in export.file:
        name, part = key.split(".", 1)
        assert part in PARTS
        assert reached.setdefault(wanted[name], name) == name, "two names for one layer"
        a, b = export.weights.factors[wanted[name]]
        shape = {"lora_down.weight": a.shape, "lora_up.weight": b.shape, "alpha": torch.Size([])}[part]
        assert export.file[key].shape == shape
    assert reached.keys() == export.weights.factors.keys()


@each_base
def test_the_configs_are_the_published_ones(base, exports) -> None:
    """As many layers as the published models have in their blocks: nothing is left untested."""
    blocks, middle = DEPTHS[base]
    transformers = sum(2 * depth + 3 * depth for depth in blocks) + middle
    resnets = 2 * len(blocks) + 3 * len(blocks) + 2
    found = layers_of(exports[base])
    assert (
        sum(name.endswith("attn2.to_k") for name in found) == transformers == (70 if base == "sdxl" else 16)
    )
    assert sum(name.endswith("conv1") for name in found) == resnets
    texts = sum(layers for layers, _, _ in TEXTS[base]) * len(TEXT_LAYERS)
    assert len(exports[base].weights.factors) == len(found) + texts


# A1111 ---------------------------------------------------------------------------------------

OPENCLIP = {"mlp_fc1": "mlp_c_fc", "mlp_fc2": "mlp_c_proj"}


def a1111_modules(base: str, export: Export) -> set[str]:
    """The names of the modules that A1111 can reach in the original model, with the embedder's number in SDXL."""
    found = {"diffusion_model_" + original(base, module).replace(".", "_") for module in layers_of(export)}
    for encoder, (layers, _, _) in enumerate(TEXTS[base]):
        number = f"{encoder}_" if base == "sdxl" else ""
        for layer in range(layers):
            if base == "sd14" or (base == "sdxl" and encoder == 0):
                row = f"{number}transformer_text_model_encoder_layers_{layer}"
                found |= {f"{row}_{name.replace('.', '_')}" for name in TEXT_LAYERS}
            else:  # one module holds q, k and v
                row = f"{number}model_transformer_resblocks_{layer}"
                found |= {f"{row}_{name}" for name in ("attn", "attn_out_proj", "mlp_c_fc", "mlp_c_proj")}
    return found


def a1111_name(name: str, base: str) -> str:
    """The module's name that A1111 makes of a file's: diffusers' UNet by strides of three."""
    if base == "sdxl":
        name = name.replace("lora_unet_", "diffusion_model_")
    if found := re.fullmatch(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", name):
        side, block, kind, i, rest = found.groups()
        row = 3 * int(block) + int(i) + (side == "down")
        rest = RESNET.get(rest, rest).replace(".", "_") if kind == "resnets" else rest
        side = "input" if side == "down" else "output"
        return f"diffusion_model_{side}_blocks_{row}_{int(kind == 'attentions')}_{rest}"
    if found := re.fullmatch(r"lora_unet_mid_block_(attentions|resnets)_(\d)_(.+)", name):
        kind, i, rest = found.groups()
        place = 1 if kind == "attentions" else 2 * int(i)
        rest = RESNET.get(rest, rest).replace(".", "_") if kind == "resnets" else rest
        return f"diffusion_model_middle_block_{place}_{rest}"
    if found := re.fullmatch(r"lora_unet_down_blocks_(\d)_downsamplers_0_conv", name):
        return f"diffusion_model_input_blocks_{3 + 3 * int(found[1])}_0_op"
    if found := re.fullmatch(r"lora_unet_up_blocks_(\d)_upsamplers_0_conv", name):
        block = int(found[1])
        return f"diffusion_model_output_blocks_{2 + 3 * block}_{2 if block else 1}_conv"
    if found := re.fullmatch(r"lora_te(1|2|)_text_model_encoder_layers_(\d+)_(.+)", name):
        number, layer, rest = found.groups()
        number = {"": "", "1": "0_", "2": "1_"}[number]
        if base == "sd2" or number == "1_":
            rest = OPENCLIP.get(rest, rest.replace("self_attn", "attn"))
            return f"{number}model_transformer_resblocks_{layer}_{rest}"
        return f"{number}transformer_text_model_encoder_layers_{layer}_{rest}"
    return name


@each_base
def test_a1111_finds_a_module_for_every_key(base, exports) -> None:
    export = exports[base]
    modules, attentions = a1111_modules(base, export), {}
    reached = set()
    for name in {key.split(".", 1)[0] for key in export.file}:
        found = a1111_name(name, base)
        if found not in modules:  # a part of an attention that is one module
            found, part = re.fullmatch(r"(.*)_([qkv])_proj", found).groups()
            attentions.setdefault(found, set()).add(part)
        assert found in modules, name
        reached.add(found)
    assert reached == modules
    # Of such an attention A1111 takes q, k, v and out together or, without a word, none.
    assert all(parts == set("qkv") and f"{name}_out_proj" in reached for name, parts in attentions.items())
    assert bool(attentions) == (base != "sd14")


def test_what_we_train_on_text_encoders_is_an_attention_as_a_whole() -> None:
    from selma.lora.text import TEXT_TARGETS

    assert set(TEXT_TARGETS) >= {"q_proj", "k_proj", "v_proj", "out_proj"}


# diffusers and peft --------------------------------------------------------------------------


def saved(export: Export, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the file in diffusers' format, as it is exported."""
    card = {"rank": 1, "alpha": 0.5, "targets": ["to_q"], "text_targets": ["q_proj"], "backbone": "x"}
    save_lora(folder, export.weights.state(), card)
    return load_file(folder / WEIGHTS)


@each_base
def test_diffusers_reads_both_files_as_the_same_layers(base, exports, tmp_path) -> None:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    export = exports[base]
    pipeline = StableDiffusionXLPipeline if base == "sdxl" else StableDiffusionPipeline
    config = type("Config", (dict,), {"__getattr__": dict.__getitem__})(export.unet)
    read = []
    for file in (saved(export, tmp_path), export.file):
        found, alphas = pipeline.lora_state_dict(dict(file), unet_config=config)[:2]
        parts = [{}, {}]
        for key, value in found.items():
            parts[key.startswith("text_encoder")][key] = value
        unet, texts = (
            convert_unet_state_dict_to_peft(parts[0]),
            convert_state_dict_to_peft(convert_state_dict_to_diffusers(parts[1])),
        )
        read.append({key: value.shape for key, value in {**unet, **texts}.items()})
    assert read[0] == read[1]
    assert len(alphas) == len(export.weights.factors) and len(read[0]) == 2 * len(alphas)


@each_base
def test_peft_takes_every_key_of_the_diffusers_file(base, exports, tmp_path) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    export, layers = exports[base], layers_of(exports[base])
    file = saved(export, tmp_path)
    state = {key.removeprefix("unet."): file[key] for key in file if key.startswith("unet.")}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[base])
    config = LoraConfig(r=1, lora_alpha=1, target_modules="|".join(map(re.escape, layers)))
    inject_adapter_in_model(config, unet, low_cpu_mem_usage=True)
    left = set_peft_model_state_dict(unet, state, low_cpu_mem_usage=True)
    assert not left.unexpected_keys
    assert not [key for key in left.missing_keys if "lora_" in key]
    assert len(state) == 2 * len(layers)
