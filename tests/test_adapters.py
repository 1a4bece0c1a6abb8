"""LoRA folders that somebody else made or damaged: one line that names the file, and nothing read past."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from selma.backbones.loading import fingerprint, load_pipeline
from selma.ground.adapters import CARD, METADATA, WEIGHTS, read_adapter
from selma.ground.errors import UserError
from selma.lora.files import load_lora

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
A, B = f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"
STATE = {A: torch.ones(2, 32), B: torch.ones(32, 2)}
SAID = {"rank": 2, "alpha": 4.0, "targets": ["to_q"], "backbone": "b" * 64}
META = {"unet.r": 2, "unet.lora_alpha": 4.0, "unet.target_modules": ["to_q"]}


def folder(path: Path, state: dict = STATE, said: object = SAID, meta: object = META) -> Path:
    """A LoRA folder, written without any check; `meta` None leaves the adapter's metadata out."""
    path.mkdir(exist_ok=True)
    header = {"format": "pt"} | ({} if meta is None else {METADATA: json.dumps(meta)})
    save_file(state, path / WEIGHTS, header)
    (path / CARD).write_text(json.dumps(said))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_lora(path)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def test_the_folder_of_these_tests_is_right(tmp_path):
    weights = load_lora(folder(tmp_path / "lora"))
    assert (weights.rank, weights.scaling, weights.provenance) == (2, 2.0, SAID)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha": float("nan")}, "lora.json, line 1: is not valid JSON"),
        ({"alpha": float("inf")}, "lora.json, line 1: is not valid JSON"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": -4.0}, "alpha is -4.0; it must be greater than 0"),
        ({"alpha": 1e300}, "alpha is 1e+300; it must be less than"),
        ({"alpha": True}, "alpha is True; it must be a valid number"),
        ({"alpha": "4"}, "alpha is '4'; it must be a valid number"),
        ({"alpha": None}, "alpha is None"),
        ({"alpha": [4]}, r"alpha is [4]"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": -2}, "rank is -2"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"rank": "2"}, "rank is '2'"),
        ({"rank": True}, "rank is True"),
        ({"rank": 3}, "r is 2; lora.json says 3"),
        ({"targets": "to_q"}, "targets is 'to_q'"),
        ({"targets": []}, "targets is []"),
        ({"targets": [1]}, "targets[0] is 1"),
        ({"targets": ["to_k"]}, "target_modules"),
        ({"backbone": None}, "backbone is None"),
        ({"experts": "count"}, "experts is 'count'"),
        ({"experts": ["../../secret"]}, "experts[0] is '../../secret'"),
        ({"images": -1}, "images is -1"),
        ({"operator": 3}, "operator is 3"),
    ],
)
def test_a_lora_json_that_says_something_impossible_is_named(tmp_path, change, named):
    assert named in refused(folder(tmp_path / "lora", said={**SAID, **change}))


@pytest.mark.parametrize("said", [[], [SAID], "x", 3, None, {}, {"rank": 2}, {**SAID, "name": "\ud800"}])
def test_a_lora_json_of_another_shape_is_named(tmp_path, said):
    assert CARD in refused(folder(tmp_path / "lora", said=said))


def factors(a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    return {A: a, B: b}


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({}, "no LoRA factors"),
        ({A: STATE[A]}, "has no lora_B"),
        ({B: STATE[B]}, "has no lora_A"),
        (factors(torch.ones(3, 32), torch.ones(32, 3)), "rank 2, as lora.json says"),
        (factors(torch.ones(2, 32), torch.ones(32, 3)), "rank 2, as lora.json says"),
        (factors(torch.ones(2), torch.ones(32)), "shapes (2,) and (32,)"),
        (factors(torch.ones(()), torch.ones(())), "shapes () and ()"),
        (factors(torch.ones(2, 0), torch.ones(0, 2)), "shapes (2, 0) and (0, 2)"),
        (factors(torch.ones(2, 32, 3), torch.ones(32, 2, 1)), "shapes (2, 32, 3) and (32, 2, 1)"),
        (factors(torch.ones(2, 32, 3, 3), torch.ones(32, 2)), "shapes (2, 32, 3, 3) and (32, 2)"),
        (factors(torch.ones(2, 32, 1, 1), torch.ones(32, 2, 3, 3)), "shapes (2, 32, 1, 1) and (32, 2, 3, 3)"),
        (factors(torch.full((2, 32), torch.nan), STATE[B]), "not finite"),
        (factors(STATE[A], torch.full((32, 2), -torch.inf)), "not finite"),
        *(
            (factors(STATE[A].to(dtype), STATE[B].to(dtype)), f"is in {str(dtype)[6:]}; allowed: float16")
            for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64, torch.bool)
        ),
        (factors(STATE[A].cfloat(), STATE[B].cfloat()), "is in complex64; allowed: float16"),
        *(
            (STATE | {key: torch.ones(32)}, f"holds {key}; allowed")
            for key in (
                f"unet.{LAYER}.lora_magnitude_vector",
                f"unet.{LAYER}.lora_magnitude_vector.weight",
                f"unet.{LAYER}.dora_scale",
                f"unet.{LAYER}.lora_B.bias",
                f"unet.{LAYER}.lora_embedding_A",
                f"unet.{LAYER}.lora_A.default.weight",
                f"unet.{LAYER}.hada_w1_a",
                f"unet.{LAYER}.lokr_w1",
                f"unet.{LAYER}.alpha",
                f"{LAYER}.lora_A.weight",
                "text_encoder_3.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
                "base_model.model.unet.x.lora_A.weight",
                "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
                "x",
            )
        ),
        (
            {f"unet.{LAYER[:-1]}v.lora_A.weight": STATE[A], f"unet.{LAYER[:-1]}v.lora_B.weight": STATE[B]},
            "named by none of the targets",
        ),
    ],
)
def test_a_file_of_anything_but_finite_factors_is_named(tmp_path, state, named):
    assert named in refused(folder(tmp_path / "lora", state))


@pytest.mark.parametrize(
    ("meta", "named"),
    [
        (None, "has no lora_adapter_metadata, so its alpha is its rank (2) for other loaders"),
        ([], "not a JSON mapping"),
        ("x", "not a JSON mapping"),
        ({}, "lacks unet.lora_alpha, unet.r, unet.target_modules"),
        ({**META, "unet.lora_alpha": 2.0}, "says unet.lora_alpha is 2.0; lora.json says 4.0"),
        ({**META, "unet.r": 4}, "says unet.r is 4; lora.json says 2"),
        ({**META, "unet.target_modules": ["to_q", "to_k"]}, "unet.target_modules is ['to_k', 'to_q']"),
        ({**META, "unet.use_dora": True}, "says unet.use_dora is True; no such setting"),
        ({**META, "unet.use_rslora": True}, "says unet.use_rslora is True; no such setting"),
        ({**META, "unet.alpha_pattern": {"to_q": 1.0}}, "unet.alpha_pattern"),
        ({**META, "unet.rank_pattern": {"to_q": 1}}, "unet.rank_pattern"),
        ({**META, "text_encoder.r": 2}, "text_encoder.r"),
    ],
)
def test_metadata_by_which_diffusers_would_open_another_lora_is_named(tmp_path, meta, named):
    assert named in refused(folder(tmp_path / "lora", meta=meta))


def test_settings_that_are_off_and_a_file_without_metadata_at_alpha_equal_to_rank_are_fine(tmp_path):
    off = {"unet.use_dora": False, "unet.rank_pattern": {}, "unet.alpha_pattern": {}}
    assert load_lora(folder(tmp_path / "off", meta={**META, **off})).scaling == 2.0
    assert load_lora(folder(tmp_path / "bare", said={**SAID, "alpha": 2}, meta=None)).scaling == 1.0


@pytest.mark.parametrize("damage", ["empty", "cut", "pickle", "text", "no card", "no weights", "folder"])
def test_a_damaged_folder_is_named(tmp_path, damage):
    path = folder(tmp_path / "lora")
    file = path / WEIGHTS
    if damage == "no card":
        (path / CARD).unlink()
    elif damage == "no weights":
        file.unlink()
    elif damage == "pickle":
        torch.save(STATE, file)
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"empty": b"", "cut": file.read_bytes()[:-40], "text": b"x" * 500}[damage])
    refused(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(SAID)), JSON, min_size=1))
def test_whatever_a_lora_json_says_is_read_or_one_line(tmp_path_factory, change):
    path = folder(tmp_path_factory.getbasetemp() / "fuzz", said={**SAID, **change})
    try:
        said = read_adapter(path).card
    except UserError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert (said["rank"], said["alpha"], said["targets"]) == (2, 4.0, ["to_q"])


@pytest.mark.parametrize(
    ("layer", "size", "named"),
    [
        (LAYER, 48, "is of shape (32, 48); this backbone has no such layer"),
        ("mid_block.attentions.9.to_q", 32, "mid_block.attentions.9.to_q is of shape"),
    ],
)
def test_a_layer_that_the_backbone_does_not_have_is_named(tiny_backbone, tmp_path, layer, size, named):
    state = {f"unet.{layer}.lora_A.weight": torch.ones(2, size), f"unet.{layer}.lora_B.weight": STATE[B]}
    path = folder(tmp_path / "lora", state, {**SAID, "backbone": fingerprint(tiny_backbone)})
    with pytest.raises(UserError) as caught:
        load_pipeline(tiny_backbone, lora=path)
    assert named in str(caught.value)
