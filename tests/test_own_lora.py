"""LoRAs of one's own, of kohya's, diffusers' and peft's making: read, held against the backbone, merged, drawn with."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from selma.backbones.loading import fingerprint, load_pipeline, text_fingerprint
from selma.foreign.backbone import open_backbone
from selma.foreign.names import by_name
from selma.foreign.reading import Read, find, read
from selma.ground.adapters import METADATA, UNET, WEIGHTS, part_of
from selma.ground.errors import UserError
from selma.lora import kohya
from selma.lora.files import LoraWeights, load_lora, save_lora
from selma.lora.text import TEXT_TARGETS
from selma.runtime import loras
from selma.runtime.params import load_params
from stages import merge as merge_stage
from stages import own_lora
from tests.test_export import tiny_xl  # noqa: F401 - a fixture
from tests.unets import SD14, SDXL

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
WHAT_KOHYA_TRAINS = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
TEXTS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
BACKBONES = ["tiny_backbone", "tiny_xl"]
ROOT = Path(__file__).parents[1]


def random_factors(folder: Path, targets: tuple[str, ...], rank: int = 4, seed: int = 0) -> dict[str, Any]:
    """Random factors of the layers of a backbone whose names end in `targets`."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer, (rows, *columns) in open_backbone(folder).shapes.items():
        if f".{part_of(layer)[1]}".endswith(tuple(f".{target}" for target in targets)):
            ones = [1] * (len(columns) - 1)
            a, b = (
                torch.randn(size, generator=generator) for size in ([rank, *columns], [rows, rank, *ones])
            )
            found[layer] = (a, b * 0.05)
    return found


def lora(
    folder: Path, targets: tuple[str, ...] = ATTENTION, scaling: float = 1.5, **options: Any
) -> LoraWeights:
    return LoraWeights(random_factors(folder, targets, **options), scaling, {})


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "unet/config.json").read_text())


def as_kohya(weights: LoraWeights, folder: Path) -> dict[str, torch.Tensor]:
    return kohya.tensors(weights, open_backbone(folder).unet, "float32")


def as_diffusers(weights: LoraWeights, _: Path) -> dict[str, torch.Tensor]:
    state = weights.state()
    return {f"{UNET}.{key}" if part_of(key)[0] == UNET else key: value for key, value in state.items()}


def as_diffusers_was(weights: LoraWeights, _: Path) -> dict[str, torch.Tensor]:
    """Keys as diffusers 0.17 wrote them, attention processors of their own."""
    made = {}
    for layer, (a, b) in weights.factors.items():
        for way, factor in (("down", a), ("up", b)):
            before, _, name = layer.removesuffix(".0").rpartition(".")
            made[f"{UNET}.{before}.processor.{name}_lora.{way}.weight"] = factor
    return made


def as_peft(weights: LoraWeights, _: Path) -> dict[str, torch.Tensor]:
    return {f"base_model.model.{key}": value for key, value in weights.state().items()}


def updates(found: Read | LoraWeights) -> dict[str, torch.Tensor]:
    made = LoraWeights(found.factors, found.scaling, {})
    return {layer: made.delta(layer) for layer in found.factors}


def assert_same(found: Read | LoraWeights, weights: LoraWeights, scale: float = 1.0) -> None:
    ours, theirs = updates(found), updates(weights)
    assert ours.keys() == theirs.keys()
    for layer in ours:
        torch.testing.assert_close(ours[layer], theirs[layer] * scale, rtol=1e-5, atol=1e-6)


# Reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_kohya_file_gives_back_what_was_exported(backbone, request, tmp_path):
    folder = request.getfixturevalue(backbone)
    weights = lora(folder, (*WHAT_KOHYA_TRAINS, *TEXTS, "conv1", "conv_shortcut", "time_emb_proj"))
    assert {part_of(layer)[0] for layer in weights.factors} >= {UNET, "text_encoder"}
    save_file(as_kohya(weights, folder), tmp_path / "mine.safetensors")
    found = read(tmp_path / "mine.safetensors", open_backbone(folder))
    assert found.scaling == 1.5 and found.dtype == torch.float32
    for layer, (a, b) in weights.factors.items():
        assert torch.equal(found.factors[layer][0], a) and torch.equal(found.factors[layer][1], b)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_kohya_file_draws_what_diffusers_itself_makes_of_it(backbone, request, tmp_path):
    """An oracle that is not ours: diffusers' conversion of kohya's names, loaded and fused."""
    folder = request.getfixturevalue(backbone)
    weights = lora(folder, (*WHAT_KOHYA_TRAINS, *TEXTS))
    save_file(as_kohya(weights, folder), tmp_path / "mine.safetensors")
    found = updates(read(tmp_path / "mine.safetensors", open_backbone(folder)))
    base, pipe = load_pipeline(folder), load_pipeline(folder)
    pipe.load_lora_weights(tmp_path, weight_name="mine.safetensors")
    pipe.fuse_lora(
        components=[part for part in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, part)]
    )
    pipe.unload_lora_weights()
    compared = 0
    for part in ("unet", "text_encoder", "text_encoder_2"):
        if not hasattr(pipe, part):
            continue
        before = dict(getattr(base, part).named_parameters())
        for name, after in getattr(pipe, part).named_parameters():
            own = name.removesuffix(".weight")
            layer = own if part == UNET else f"{part}.text_model.{own.removeprefix('text_model.')}"
            change = found.get(layer, torch.zeros(())) if name.endswith(".weight") else torch.zeros(())
            torch.testing.assert_close(after, before[name] + change.expand(after.shape), rtol=1e-4, atol=1e-5)
            compared += layer in found and name.endswith(".weight")
    assert compared == len(found)


@pytest.mark.parametrize("layout", [as_diffusers, as_diffusers_was, as_peft])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_other_names_of_the_same_layers(backbone, layout, request, tmp_path):
    folder = request.getfixturevalue(backbone)
    weights = lora(folder)
    save_file(layout(weights, folder), tmp_path / "mine.safetensors")
    # without an alpha, alpha is the rank
    assert_same(read(tmp_path / "mine.safetensors", open_backbone(folder)), weights, 1 / 1.5)


def test_sdxl_by_diffusers_own_names_with_underscores(tiny_xl, tmp_path):  # noqa: F811
    weights = lora(tiny_xl)
    unet = open_backbone(tiny_xl).unet
    names = {kohya.layer_name(layer, unet): layer for layer in weights.factors}
    tensors = {}
    for key, value in as_kohya(weights, tiny_xl).items():
        name, rest = key.split(".", 1)
        tensors[f"lora_unet_{names[name].replace('.', '_')}.{rest}"] = value
    save_file(tensors, tmp_path / "mine.safetensors")
    assert_same(read(tmp_path / "mine.safetensors", open_backbone(tiny_xl)), weights)


def test_ranks_and_alphas_of_their_own_keep_the_updates(tiny_backbone, tmp_path):
    """kohya's conv_dim and conv_alpha."""
    one = lora(tiny_backbone, ATTENTION, 0.5, rank=4)
    two = lora(tiny_backbone, ("conv1",), 2.0, rank=2)
    save_file(as_kohya(one, tiny_backbone) | as_kohya(two, tiny_backbone), tmp_path / "mine.safetensors")
    found = read(tmp_path / "mine.safetensors", open_backbone(tiny_backbone))
    assert {a.shape[0] for a, _ in found.factors.values()} == {4}
    assert found.dtype == torch.float32
    wanted = updates(one) | updates(two)
    for layer, update in updates(found).items():
        torch.testing.assert_close(update, wanted[layer], rtol=1e-5, atol=1e-6)


def test_a_1x1_convolutions_factors_serve_a_linear_layer(tiny_xl, tmp_path):  # noqa: F811
    weights = lora(tiny_xl, ("proj_in",))
    tensors = as_kohya(weights, tiny_xl)
    assert all(value.ndim in (0, 2) for value in tensors.values())
    wide = {key: value[:, :, None, None] if value.ndim else value for key, value in tensors.items()}
    save_file(wide, tmp_path / "mine.safetensors")
    assert_same(read(tmp_path / "mine.safetensors", open_backbone(tiny_xl)), weights)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 4, "alpha_pattern": {"to_q": 12}}, None),
    ],
)
def test_pefts_settings_in_the_files_metadata(tiny_backbone, tmp_path, settings, scale):
    weights = lora(tiny_backbone, scaling=1.0)
    said = {f"{UNET}.{key}": value for key, value in settings.items()}
    save_file(
        as_diffusers(weights, tiny_backbone), tmp_path / "mine.safetensors", {METADATA: json.dumps(said)}
    )
    found = updates(read(tmp_path / "mine.safetensors", open_backbone(tiny_backbone)))
    for layer, update in updates(weights).items():
        own = scale or (3.0 if layer.endswith("to_q") else 1.0)
        torch.testing.assert_close(found[layer], own * update, rtol=1e-5, atol=1e-6)


def test_a_peft_folders_alpha_is_read(tiny_backbone, tmp_path):
    weights = lora(tiny_backbone, scaling=1.0)
    save_file(as_peft(weights, tiny_backbone), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2}))
    file = find(tmp_path)
    assert_same(read(file, open_backbone(tiny_backbone)), weights, 0.5)


@pytest.mark.parametrize(
    ("base", "encoders", "modules"),
    [(SD14, [(768, 12)], {UNET: 192, "text_encoder": 72}),
     (SDXL, [(768, 12), (1280, 32)], {UNET: 722, "text_encoder": 72, "text_encoder_2": 192})],
    ids=["sd14", "sdxl"],
)  # fmt: skip
def test_every_module_of_kohyas_trainer_has_a_layer_on_the_published_models(
    base, encoders, modules, tmp_path
):
    """As many as the trainer itself says that it makes, each under a name of its own."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig

    with torch.device("meta"):
        UNet2DConditionModel(**base).save_config(tmp_path / "unet")
    for part, (width, layers) in zip(("text_encoder", "text_encoder_2"), encoders, strict=False):
        config = CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers)
        config.save_pretrained(tmp_path / part)
    whole = open_backbone(tmp_path)
    ends = {UNET: WHAT_KOHYA_TRAINS}
    adapted = [
        layer
        for layer in whole.shapes
        if f".{part_of(layer)[1]}".endswith(tuple(f".{end}" for end in ends.get(part_of(layer)[0], TEXTS)))
    ]
    assert Counter(part_of(layer)[0] for layer in adapted) == modules
    names = by_name(whole.shapes, whole.unet)
    assert [names[kohya.layer_name(layer, whole.unet)] for layer in adapted] == adapted


# What is refused -------------------------------------------------------------------------------


def broken(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], path: Path) -> str:
    tensors = as_kohya(lora(folder), folder)
    change(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    with pytest.raises(UserError) as error:
        read(path, open_backbone(folder))
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def test_tensors_that_are_no_lora(tiny_backbone, tmp_path):
    mine = tmp_path / "mine.safetensors"
    first = next(iter(as_kohya(lora(tiny_backbone), tiny_backbone))).partition(".")[0]
    for other in ("dora_scale", "hada_w1_a", "lokr_w1", "lora_mid.weight", "lora_B.bias", "diff"):
        said = broken(
            tiny_backbone, lambda found, other=other: found.update({f"{first}.{other}": torch.ones(1)}), mine
        )
        assert said == (
            f"holds {first}.{other}; allowed: a LoRA's factors and alphas, by kohya's, diffusers' or peft's names "
            "(no DoRA, LoHa, LoKr, LoCon with lora_mid or biases)"
        )


def test_factors_that_do_not_fit(tiny_backbone, tmp_path):
    mine = tmp_path / "mine.safetensors"
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    one = torch.ones(1)
    for change, said in (
        (lambda found: found.pop(f"{key}.lora_up.weight"), f"{layer} has no factor B; both are needed"),
        (
            lambda found: found.update({f"{key}.alpha": -one}),
            f"the alpha of {layer} is -1.0; it must be a positive",
        ),
        (lambda found: found.update({f"{key}.alpha": torch.ones(2)}), f"the alpha of {layer} is no number"),
        (
            lambda found: found.update({f"{key}.lora_up.weight": torch.full((32, 4), torch.nan)}),
            f"{layer} holds values that are not finite",
        ),
        (
            lambda found: found.update({f"{key}.lora_down.weight": torch.ones(4, 7)}),
            f"the factors of {layer} have the shapes (4, 7) and (32, 4), and the layer of {tiny_backbone} (32, 32)",
        ),
        (
            lambda found: found.update({"lora_unet_nowhere_to_q.lora_down.weight": one}),
            f"holds lora_unet_nowhere_to_q.lora_down.weight, and {tiny_backbone} has no such layer",
        ),
        (
            lambda found: found.update({f"{key}.lora_up.weight": torch.ones(32, 4, dtype=torch.float64)}),
            f"{layer} is in torch.float64; allowed: float16, bfloat16, float32",
        ),
    ):
        assert broken(tiny_backbone, change, mine).startswith(said)


def test_a_lora_of_texts_alone(tiny_backbone, tmp_path):
    mine = tmp_path / "mine.safetensors"
    save_file(as_kohya(lora(tiny_backbone, TEXTS), tiny_backbone), mine)
    with pytest.raises(UserError, match=r"mine.safetensors: adapts no layer of the UNet"):
        read(mine, open_backbone(tiny_backbone))


@pytest.mark.parametrize("layout", [as_kohya, as_diffusers])
def test_a_lora_of_another_family_is_called_by_its_name(tiny_backbone, tiny_xl, layout, tmp_path):  # noqa: F811
    mine = tmp_path / "mine.safetensors"
    for made_for, used_on in ((tiny_xl, tiny_backbone), (tiny_backbone, tiny_xl)):
        save_file(layout(lora(made_for), made_for), mine)
        with pytest.raises(UserError) as error:
            read(mine, open_backbone(used_on))
        theirs, ours = (config(folder)["cross_attention_dim"] for folder in (made_for, used_on))
        assert str(error.value).endswith(
            f"; it is a LoRA for a model that reads texts of width {theirs}, and the backbone is a model that reads "
            f"texts of width {ours}"
        )


@pytest.mark.parametrize(
    ("width", "said"), [(2048, "a LoRA for SDXL"), (1024, "a LoRA for SD 2.x"), (768, "a LoRA for SD 1.x")]
)
def test_the_published_families_have_names(tiny_backbone, tmp_path, width, said):
    mine = tmp_path / "mine.safetensors"
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{key}.lora_down.weight": torch.ones(4, width), f"{key}.lora_up.weight": torch.ones(32, 4)}, mine
    )
    with pytest.raises(UserError, match=said):
        read(mine, open_backbone(tiny_backbone))


# The stage -------------------------------------------------------------------------------------


@pytest.fixture
def project(make_project, tiny_backbone, tmp_path, monkeypatch):
    """A project whose row `mine` of own.loras names a file that the test writes; the backbone is the tiny one."""
    root = make_project(
        "project",
        {
            "skills": ["count"],
            "experts": {"count": {"data": "data/images/count", "objective": "denoising"}},
            "own.backbones": {"tiny": {"path": str(tiny_backbone)}},
            "own.loras": {"mine": {"path": str(tmp_path / "mine.safetensors")}},
            "expert.backbone": "tiny",
            "images.backbone": "tiny",
            "expert.rank": 4,
            "merges": {"both": {"operator": "delta_mean", "experts": ["count", "mine"]}},
            "models": {
                "base": {"weights": "models/backbones/tiny", "guidance": "cfg"},
                "mine": {"weights": "models/experts/mine", "guidance": "cfg"},
                "both": {"weights": "models/merges/both", "guidance": "cfg"},
            },
            "compare": [["mine", "base"]],
        },
    )
    monkeypatch.chdir(root)
    for folder in ("data/images/count", "data/benchmarks/shapes"):  # merges depend on them
        Path(folder).mkdir(parents=True)
    return root


def take(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_STAGE", "own_lora@mine")
    own_lora.main("mine")
    return Path("models/experts/mine")


def test_it_becomes_an_expert_that_is_drawn_with_and_merged(project, tiny_backbone, tmp_path, monkeypatch):
    weights = lora(tiny_backbone)
    save_file(as_kohya(weights, tiny_backbone), tmp_path / "mine.safetensors")
    out = take(monkeypatch)
    assert_same(load_lora(out), weights)
    said = load_lora(out).provenance
    assert (said["name"], said["rank"], said["alpha"], said["targets"]) == ("mine", 4, 6.0, sorted(ATTENTION))
    assert said["backbone"] == fingerprint(tiny_backbone) and said["file"] == "mine.safetensors"
    load_pipeline(tiny_backbone, lora=out)  # as stage sample opens it

    other = lora(tiny_backbone, scaling=2.0, seed=1)
    card = {
        "name": "count",
        "rank": 4,
        "alpha": 8.0,
        "targets": list(ATTENTION),
        "backbone": said["backbone"],
    }
    save_lora(Path("models/experts/count"), other.state(), card)
    monkeypatch.setenv("DVC_STAGE", "merge@both")
    merge_stage.main("both")
    merged, one, two = (updates(each) for each in (load_lora(Path("models/merges/both")), weights, other))
    for layer in one:
        torch.testing.assert_close(merged[layer], (one[layer] + two[layer]) / 2, rtol=1e-4, atol=1e-5)


def test_text_encoders_stay_in_it(project, tiny_backbone, tmp_path, monkeypatch):
    weights = lora(tiny_backbone, (*WHAT_KOHYA_TRAINS, *TEXTS))
    save_file(as_kohya(weights, tiny_backbone), tmp_path / "mine.safetensors")
    monkeypatch.setattr("selma.runtime.loras.header", lambda path: None)  # the merge would not hold it
    out = take(monkeypatch)
    assert_same(load_lora(out), weights)
    said = load_lora(out).provenance
    assert said["text_targets"] == sorted(TEXTS) and said["text_backbone"] == text_fingerprint(tiny_backbone)
    assert said["targets"] == sorted([*ATTENTION, "proj_in", "proj_out", "proj", "net.2"])
    load_pipeline(tiny_backbone, lora=out)


def test_half_precision_stays_half(project, tiny_backbone, tmp_path, monkeypatch):
    tensors = as_kohya(lora(tiny_backbone), tiny_backbone)
    save_file({key: value.half() for key, value in tensors.items()}, tmp_path / "mine.safetensors")
    out = take(monkeypatch)
    assert (out / WEIGHTS).stat().st_size < 0.75 * (tmp_path / "mine.safetensors").stat().st_size * 2
    first = (out / WEIGHTS).read_bytes()
    assert (take(monkeypatch) / WEIGHTS).read_bytes() == first


def test_a_layer_by_itself_is_named_in_full(project, tiny_backbone, tmp_path, monkeypatch):
    whole = lora(tiny_backbone, ("attn2.to_k",)).factors
    name = next(iter(whole))
    save_file(
        as_kohya(LoraWeights({name: whole[name]}, 1.5, {}), tiny_backbone), tmp_path / "mine.safetensors"
    )
    monkeypatch.setattr("selma.runtime.loras.header", lambda path: None)
    out = take(monkeypatch)
    (target,) = load_lora(out).provenance["targets"]
    assert [layer for layer in open_backbone(tiny_backbone).shapes if f".{layer}".endswith(f".{target}")] == [
        name
    ]
    load_pipeline(tiny_backbone, lora=out)


def test_a_folder_of_another_run_must_be_of_this_backbone(project, tiny_backbone, tmp_path, monkeypatch):
    folder = tmp_path / "mine.safetensors"  # a folder, whatever its name
    weights = lora(tiny_backbone)
    card = {
        "name": "count",
        "rank": 4,
        "alpha": 6.0,
        "targets": list(ATTENTION),
        "backbone": fingerprint(tiny_backbone),
    }
    save_lora(folder, weights.state(), card)
    assert_same(load_lora(take(monkeypatch)), weights)
    shutil.rmtree(folder)
    save_lora(folder, weights.state(), {**card, "backbone": "0" * 64})
    with pytest.raises(UserError, match="was trained on a different backbone than models/backbones/tiny"):
        take(monkeypatch)


def test_what_is_no_lora_file_is_one_line_and_leaves_what_was_there(
    project, tiny_backbone, tmp_path, monkeypatch
):
    mine = tmp_path / "mine.safetensors"
    save_file(as_kohya(lora(tiny_backbone), tiny_backbone), mine)
    before = (take(monkeypatch) / WEIGHTS).read_bytes()
    mine.unlink()
    with pytest.raises(
        UserError, match=r"mine\.safetensors: file or folder not found; a LoRA is a \.safetensors"
    ):
        take(monkeypatch)
    mine.write_bytes(b"PK\3\4 a pickle under another name")
    with pytest.raises(UserError, match=r"mine\.safetensors: this LoRA cannot be read"):
        take(monkeypatch)
    mine.unlink()
    mine.mkdir()
    (mine / "pytorch_lora_weights.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no \.safetensors file; name the file of the LoRA"):
        take(monkeypatch)
    assert Path("models/experts/mine", WEIGHTS).read_bytes() == before


# params.yaml -----------------------------------------------------------------------------------

LIKE = {"data": "data/images/count", "objective": "denoising"}


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        ({"path": "/loras/mine.pt"}, {}, "own.loras.mine.path is a .pt file, which is never loaded"),
        ({"path": "/loras/mine.ckpt"}, {}, "own.loras.mine.path is a .ckpt file, which is never loaded"),
        (
            {"path": "https://a.b/mine.safetensors"},
            {},
            "own.loras.mine.path is 'https://a.b/mine.safetensors'; it must",
        ),
        ({}, {}, "missing key own.loras.mine.path"),
        (
            {"path": "/m"},
            {"experts.mine": LIKE},
            "own.loras.mine: `experts` has a row of that name; choose another",
        ),
        (
            {"path": "/m"},
            {"merges.mine": {"operator": "ties", "experts": None}},
            "own.loras.mine: `merges` has a row of that name; choose another",
        ),
        (
            {"path": "/m"},
            {"merges.x": {"operator": "regmean", "experts": ["count", "mine"]}},
            "merges.x.operator is regmean, which needs the experts' own pictures or prompts; mine is a LoRA of your "
            "own, which has none",
        ),
        (
            {"path": "/m"},
            {"models.x": {"weights": "models/experts/other", "guidance": "cfg"}},
            "models.x.weights is models/experts/other; it must be one made by a stage:",
        ),
    ],
)
def test_a_row_that_cannot_be_is_one_line(tmp_path, row, changes, said):
    assert said in refused(tmp_path, row, changes)


def refused(tmp_path: Path, row: dict[str, Any], changes: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        write_params(tmp_path, row, changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_params(tmp_path: Path, row: dict[str, Any], changes: dict[str, Any]) -> None:
    yaml = YAML()
    settings = yaml.load(ROOT / "params.yaml")
    settings["own"]["loras"]["mine"] = row
    for key, value in changes.items():
        section, name = key.split(".")
        settings[section][name] = value
    yaml.dump(settings, tmp_path / "params.yaml")
    load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("layout", [as_kohya, as_diffusers, as_diffusers_was])
def test_what_a_merge_cannot_hold_is_said_before_anything_is_trained(tiny_xl, layout, tmp_path):  # noqa: F811
    """By names and shapes in the file's header; experts of params.yaml are of rank 8, on the attention."""
    mine = tmp_path / "mine.safetensors"
    row = {"path": str(mine)}
    both = {"merges.x": {"operator": "ties", "experts": ["count", "mine"]}}
    means = {"merges.x": {"operator": "factor_mean", "experts": ["count", "mine"]}}
    write_params(tmp_path, row, means)  # a file that is not there yet is nobody's mistake
    save_file(layout(lora(tiny_xl), tiny_xl), mine)
    write_params(tmp_path, row, both)
    assert (
        "merges.x.operator is factor_mean, which needs experts of one rank; mine has 4, count 8; allowed: "
        in refused(tmp_path, row, means)
    )
    save_file(layout(lora(tiny_xl, rank=8), tiny_xl), mine)
    write_params(tmp_path, row, means)
    save_file(layout(lora(tiny_xl, ATTENTION[:3]), tiny_xl), mine)
    assert refused(tmp_path, row, both).endswith(
        "merges.x.experts: mine adapts other layers than count (to_q, to_k, to_v, to_out.0): to_out.0 is of one of "
        "them alone; merged experts need the same"
    )
    if layout is as_diffusers_was:  # whose processors held the attention alone
        return
    save_file(layout(lora(tiny_xl, (*ATTENTION, "conv1")), tiny_xl), mine)
    assert "mine adapts other layers than count" in refused(tmp_path, row, both)
    convolutions = {"expert.targets": [*ATTENTION, "conv1", "conv_shortcut"]}
    save_file(layout(lora(tiny_xl, (*ATTENTION, "conv1", "conv_shortcut")), tiny_xl), mine)
    write_params(tmp_path, row, both | convolutions)
    save_file(layout(lora(tiny_xl, WHAT_KOHYA_TRAINS), tiny_xl), mine)
    named = [*ATTENTION, "proj_in", "proj_out", "proj", "net.2"]  # as docs/own-data.md says
    write_params(tmp_path, row, both | {"expert.targets": named})
    save_file(layout(lora(tiny_xl, (*ATTENTION, *TEXTS)), tiny_xl), mine)
    assert "mine adapts the text encoders, too, and count does not" in refused(tmp_path, row, both)
    both |= {"expert.text_encoder": True}
    assert "adapts other layers than count (q_proj, k_proj, v_proj, out_proj)" in refused(tmp_path, row, both)
    save_file(layout(lora(tiny_xl, (*ATTENTION, *TEXTS[:4])), tiny_xl), mine)
    write_params(tmp_path, row, both)
    assert loras.TEXT_TARGETS == TEXT_TARGETS
