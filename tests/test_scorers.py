"""Preference scores on tiny random models: the published formulas, and the published layouts at full size."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.judging import pixels
from selma.judging.judge import load_scorer
from selma.judging.many import rate_all
from selma.published import convert, openclip, reward
from selma.published.openclip import to_transformers
from selma.published.reward import to_reward
from selma.runtime.places import JUDGE_CARD, JUDGES
from tests.judge_models import SIZE, TOWER, bert_tokenizer, clip_config, clip_tokenizer

PROMPTS = ("a red circle", "two blue circles, seen from far away, and a dog")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_noise((24, 16), 90).convert("RGB")


def folder(name: str, kind: str) -> Path:
    path = JUDGES / name
    write_json(path / JUDGE_CARD, {"kind": kind})
    return path


def parts(model: torch.nn.Module, image: Image.Image, prompt: str, *, pad: bool) -> tuple[float, float]:
    """Cosine and logit scale, by CLIPModel's own forward."""
    tokens = clip_tokenizer()(prompt, truncation=True, max_length=16, return_tensors="pt")
    seen = (pixels.pad_square if pad else pixels.cut_square)(image, SIZE)
    with torch.no_grad():
        output = model(input_ids=tokens["input_ids"], pixel_values=seen[None])
    return (output.image_embeds @ output.text_embeds.T).item(), model.logit_scale.exp().item()


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", ["pickscore", "hpsv2", "hpsv21", "clipscore"])
def test_scores_of_clips_are_the_published_formulas(kind, prompt, image):
    from transformers import CLIPModel

    path = folder("mine", kind)
    model = CLIPModel(clip_config()).eval()
    model.save_pretrained(path)
    clip_tokenizer().save_pretrained(path / "tokenizer")
    cosine, scale = parts(model, image, prompt, pad=kind.startswith("hps"))
    described = parts(model, image, f"A photo depicts {prompt}", pad=False)[0]
    wanted = {
        "pickscore": scale * cosine,
        "hpsv2": 100 * cosine,
        "hpsv21": 100 * cosine,
        "clipscore": 2.5 * max(described, 0),
    }
    assert load_scorer("mine", "cpu").score(image, prompt) == pytest.approx(
        wanted.get(kind, 100 * cosine), abs=1e-4
    )


@pytest.fixture
def clip() -> Path:
    """A tiny CLIP as a judge of kind clip, its tokenizer beside the weights."""
    from transformers import CLIPModel

    path = folder("mine", "clip")
    CLIPModel(clip_config()).save_pretrained(path)
    clip_tokenizer().save_pretrained(path)
    return path


def processor(side: int = SIZE, mean: float = 0.5, std: float = 0.25):
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[mean] * 3,
        image_std=[std] * 3,
    )


def cosine(path: Path, seen: torch.Tensor, prompt: str) -> float:
    """By CLIPModel's own forward, from pixels [3, height, width]."""
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(path, dtype=torch.float32)
    most = model.config.text_config.max_position_embeddings
    tokens = CLIPTokenizer.from_pretrained(path)(
        prompt, truncation=True, max_length=most, return_tensors="pt"
    )
    with torch.no_grad():
        output = model(input_ids=tokens["input_ids"], pixel_values=seen[None])
    return F.cosine_similarity(output.image_embeds, output.text_embeds).item()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_clip_gives_the_cosine_of_the_prompt_as_it_is(clip, prompt, image):
    wanted = cosine(clip, pixels.cut_square(image, SIZE), prompt)
    assert load_scorer("mine", "cpu", "bfloat16").score(image, prompt) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_clip_reads_an_image_as_the_folders_processor_says(clip, image, whole):
    """preprocessor_config.json, or processor_config.json, which transformers 5 writes for a whole CLIPProcessor."""
    from transformers import CLIPProcessor

    if whole:
        CLIPProcessor(processor(), clip_tokenizer()).save_pretrained(clip)
    else:
        processor().save_pretrained(clip)
    square = image.crop((0, 0, SIZE, SIZE))  # no resize: the mean and deviation alone
    seen = (pixels._to_tensor(square) - 0.5) / 0.25
    wanted = cosine(clip, seen, "a red circle")
    assert load_scorer("mine", "cpu").score(square, "a red circle") == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(cosine(clip, pixels.cut_square(square, SIZE), "a red circle"), abs=1e-4)
    wide, grey = image, image.convert("L")
    assert all(-1 <= load_scorer("mine", "cpu").score(other, "a red circle") <= 1 for other in (wide, grey))


def test_a_processor_that_does_not_fit_its_clip_is_one_line_before_any_image(clip):
    processor(side=2 * SIZE).save_pretrained(clip)
    with pytest.raises(UserError, match=r"makes images of 16x16 pixels; this CLIP reads 8x8$"):
        load_scorer("mine", "cpu")
    (clip / "preprocessor_config.json").write_text("[1")
    with pytest.raises(UserError, match="judges/mine: this judge cannot be opened") as caught:
        load_scorer("mine", "cpu")
    assert "\n" not in str(caught.value)


EMBEDDED = Path("models/clip/shapes").absolute()


@pytest.mark.skipif(not (EMBEDDED / "tokenizer.json").is_file(), reason="`dvc pull` fetches it")
def test_the_embedded_clip_orders_images_of_its_world():
    """A rendered scene's own caption before another's, and mostly before its neighbour's, which is one fact off."""
    from selma.shapes.pretraining.autoencoder import to_pixels
    from selma.shapes.pretraining.corpus import make_corpus

    corpus = make_corpus(
        7, images=64, captions=1, rare=0.03, wrong=0.0, drop=0.0, pairs=0.5, spread=0.05, jitter=0.25
    )
    shutil.copytree(EMBEDDED, folder("clip", "clip"), dirs_exist_ok=True)
    scorer, images = load_scorer("clip", "cpu"), [Image.fromarray(image) for image in corpus.images]
    texts = [text for (text,) in corpus.captions]

    def scores(captions: list[str]) -> list[float]:
        given = list(zip(images, captions, strict=True))
        return [
            score for _, score in sorted((n, s) for came in scorer.scores(given) for n, s in came.items())
        ]

    own = scores(texts)
    far = scores(texts[2:] + texts[:2])
    near = scores([texts[i ^ 1] for i in range(len(texts))])
    assert sum(a > b for a, b in zip(own, far, strict=True)) >= 58
    assert sum(a > b for a, b in zip(own, near, strict=True)) >= 44
    trained = to_pixels(torch.from_numpy(corpus.images[:1]))[0]
    assert own[0] == pytest.approx(cosine(EMBEDDED, trained, texts[0]), abs=1e-5), (
        "not as it was trained to see"
    )


@pytest.mark.parametrize("kind", ["hpsv2", "hpsv21"])
@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a ‘red’ cat’s “circle”", "a 'red' cat's \"circle\""),
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("ＴＷＯ　ｃｉｒｃｌｅｓ", "two circles"),
        ("a schÃ¶n circle", "a schön circle"),
        ("  a \t red\n\ncircle ", "a red circle"),
        ("ﬁve <b>Red</b> circles", "five <b>red</b> circles"),
    ],
)
def test_hps_reads_a_prompt_as_open_clips_tokenizer_cleans_it(kind, prompt, read, image, monkeypatch):
    """By ftfy, html.unescape twice, white space and case, as HPSv2's own open_clip/tokenizer.py does; PickScore and
    CLIPScore were published with transformers' tokenizer, and read the prompt as it is."""
    from transformers import CLIPModel

    for name in (kind, "pickscore"):
        path = folder(name, name)
        CLIPModel(clip_config()).save_pretrained(path)
        clip_tokenizer().save_pretrained(path / "tokenizer")
        scorer, seen = load_scorer(name, "cpu"), []
        monkeypatch.setattr(
            scorer,
            "_tokenizer",
            lambda text, seen=seen, **options: seen.append(text) or clip_tokenizer()(text, **options),
        )
        scorer.score(image, prompt)
        assert seen == [read if name == kind else prompt]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_names_its_prompt(value, image):
    class Broken:
        def score(self, image, prompt):
            return value

    with pytest.raises(UserError, match=rf"score of the image of 'a red circle' is {value}"):
        list(rate_all(Broken(), [(image, "a red circle")]))


# HPS: open_clip's layout ------------------------------------------------------------------------


def openclip_layout(config) -> dict[str, torch.Size]:
    """Names and shapes of open_clip's weights, by its architecture."""
    shapes: dict[str, tuple[int, ...]] = {"logit_scale": ()}
    vision, text, out = config.vision_config, config.text_config, config.projection_dim
    for prefix, tower in (("visual.", vision), ("", text)):
        width, wide = tower.hidden_size, tower.intermediate_size
        for layer in range(tower.num_hidden_layers):
            block = f"{prefix}transformer.resblocks.{layer}"
            for name, rows, columns in (
                ("attn.in_proj_", 3 * width, width),
                ("attn.out_proj.", width, width),
                ("mlp.c_fc.", wide, width),
                ("mlp.c_proj.", width, wide),
            ):
                shapes |= {f"{block}.{name}weight": (rows, columns), f"{block}.{name}bias": (rows,)}
            for norm in ("ln_1", "ln_2"):
                shapes |= {f"{block}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    patch, width = vision.patch_size, vision.hidden_size
    for norm, size in (("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", text.hidden_size)):
        shapes |= {f"{norm}.{kind}": (size,) for kind in ("weight", "bias")}
    shapes |= {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((vision.image_size // patch) ** 2 + 1, width),
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.proj": (width, out),
        "positional_embedding": (text.max_position_embeddings, text.hidden_size),
        "token_embedding.weight": (text.vocab_size, text.hidden_size),
        "text_projection": (text.hidden_size, out),
    }
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def openclip_cosine(state, config, pixel_values: torch.Tensor, ids: torch.Tensor) -> float:
    """open_clip's forward pass, written from its architecture on its own names."""

    def tower(x: torch.Tensor, prefix: str, part, mask: torch.Tensor | None) -> torch.Tensor:
        width = part.hidden_size
        for layer in range(part.num_hidden_layers):
            own = {
                name.removeprefix(f"{prefix}transformer.resblocks.{layer}."): tensor
                for name, tensor in state.items()
                if name.startswith(f"{prefix}transformer.resblocks.{layer}.")
            }
            attention = torch.nn.MultiheadAttention(width, part.num_attention_heads, batch_first=True)
            attention.load_state_dict(
                {
                    name.removeprefix("attn."): tensor
                    for name, tensor in own.items()
                    if name.startswith("attn.")
                }
            )
            y = F.layer_norm(x, (width,), own["ln_1.weight"], own["ln_1.bias"])
            x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
            y = F.layer_norm(x, (width,), own["ln_2.weight"], own["ln_2.bias"])
            y = F.gelu(F.linear(y, own["mlp.c_fc.weight"], own["mlp.c_fc.bias"]))
            x = x + F.linear(y, own["mlp.c_proj.weight"], own["mlp.c_proj.bias"])
        return x

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    vision = config.vision_config
    patches = F.conv2d(pixel_values, state["visual.conv1.weight"], stride=vision.patch_size)
    x = torch.cat([state["visual.class_embedding"][None, None], patches.flatten(2).transpose(1, 2)], dim=1)
    x = tower(norm(x + state["visual.positional_embedding"], "visual.ln_pre"), "visual.", vision, None)
    seen = norm(x[:, 0], "visual.ln_post") @ state["visual.proj"]

    length = ids.shape[1]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][:length]
    mask = torch.full((length, length), -math.inf).triu(1)
    x = norm(tower(x, "", config.text_config, mask), "ln_final")
    read = x[:, (ids[0] == config.text_config.eos_token_id).int().argmax()] @ state["text_projection"]
    return F.cosine_similarity(seen, read).item()


def random_state(layout: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in layout.items()}


def test_a_published_hps_file_scores_as_open_clip_does(image, monkeypatch):
    tiny = clip_config()
    monkeypatch.setattr(
        openclip,
        "VIT_H_14",
        {k: v for k, v in tiny.to_dict().items() if "config" in k or k == "projection_dim"},
    )
    state = random_state(openclip_layout(tiny))
    path = folder("hps", "hpsv21")
    torch.save({"state_dict": state}, path / "HPS_v2.1_compressed.pt")
    convert.convert(path, "hpsv21")
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "judge.json", "model.safetensors"]
    clip_tokenizer().save_pretrained(path / "tokenizer")
    scorer = load_scorer("hps", "cpu")
    for prompt in PROMPTS:
        ids = clip_tokenizer()(prompt, truncation=True, max_length=16, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            cosine = openclip_cosine(state, tiny, pixels.pad_square(image, SIZE)[None], ids)
        assert scorer.score(image, prompt) == pytest.approx(100 * cosine, abs=1e-3)


def test_tensors_of_other_shapes_and_kinds_are_named():
    tiny = clip_config()
    state = random_state(openclip_layout(tiny))
    for key, tensor, named in (
        ("transformer.resblocks.0.attn.in_proj_weight", torch.tensor(1.0), "has the shape ()"),
        ("transformer.resblocks.0.attn.in_proj_bias", torch.zeros(2), "has the shape (2,)"),
        ("visual.proj", torch.zeros(3), "has the shape (3,)"),
        ("text_projection", torch.zeros(()), "has the shape ()"),
        ("logit_scale", torch.zeros(2), "has the shape (2,); () is needed"),
        ("logit_scale", torch.tensor(1), "is in int64; weights in floating point are needed"),
    ):
        with pytest.raises(UserError) as caught:
            to_transformers({**state, key: tensor}, tiny, "hps.pt")
        assert "hps.pt: " in str(caught.value) and named in str(caught.value)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 1200), st.binary(min_size=1, max_size=8))
def test_a_damaged_pickle_is_read_or_one_line(tmp_path_factory, place, odd):
    file = tmp_path_factory.getbasetemp() / "damaged.pt"
    torch.save({"state_dict": {"a": torch.zeros(3), "b": torch.ones(2, 2)}}, file)
    content = bytearray(file.read_bytes())
    content[place : place + len(odd)] = odd
    file.write_bytes(content)
    try:
        convert.read_pickle(file)
    except UserError as error:
        assert "damaged.pt" in str(error)


def test_hps_at_full_size_fills_every_weight_and_uses_every_tensor():
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(**openclip.VIT_H_14)
    layout = openclip_layout(config)
    with torch.device("meta"):
        source = {name: torch.empty(shape) for name, shape in layout.items()}
        wanted = CLIPModel(config).state_dict()
    filled = to_transformers(source, config, "HPS")
    assert {k: v.shape for k, v in filled.items()} == {k: v.shape for k, v in wanted.items()}
    assert len(source) == 14 + 12 * (32 + 24)
    assert sum(v.numel() for v in filled.values()) == sum(v.numel() for v in source.values()) == 986_109_441


# ImageReward: BLIP's layout ---------------------------------------------------------------------


def reward_layout(config) -> dict[str, torch.Size]:
    """Names and shapes of ImageReward's published weights, by BLIP's architecture."""
    vision, text = config.vision_config, config.text_config
    width, patch = vision.hidden_size, vision.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, width),
        "blip.visual_encoder.pos_embed": (1, (vision.image_size // patch) ** 2 + 1, width),
        "blip.text_encoder.embeddings.position_ids": (1, text.max_position_embeddings),
        "blip.text_encoder.embeddings.word_embeddings.weight": (text.vocab_size, text.hidden_size),
        "blip.text_encoder.embeddings.position_embeddings.weight": (
            text.max_position_embeddings,
            text.hidden_size,
        ),
    }

    def linear(name: str, rows: int, *columns: int) -> None:
        shapes.update({f"{name}.weight": (rows, *columns), f"{name}.bias": (rows,)})

    linear("blip.visual_encoder.patch_embed.proj", width, 3, patch, patch)
    linear("blip.visual_encoder.norm", width)
    for layer in range(vision.num_hidden_layers):
        block = f"blip.visual_encoder.blocks.{layer}"
        linear(f"{block}.norm1", width)
        linear(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.fc1", vision.intermediate_size, width)
        linear(f"{block}.mlp.fc2", width, vision.intermediate_size)
    hidden = text.hidden_size
    linear("blip.text_encoder.embeddings.LayerNorm", hidden)
    for layer in range(text.num_hidden_layers):
        block = f"blip.text_encoder.encoder.layer.{layer}"
        for attention, source in (("attention", hidden), ("crossattention", width)):
            linear(f"{block}.{attention}.self.query", hidden, hidden)
            linear(f"{block}.{attention}.self.key", hidden, source)
            linear(f"{block}.{attention}.self.value", hidden, source)
            linear(f"{block}.{attention}.output.dense", hidden, hidden)
            linear(f"{block}.{attention}.output.LayerNorm", hidden)
        linear(f"{block}.intermediate.dense", text.intermediate_size, hidden)
        linear(f"{block}.output.dense", hidden, text.intermediate_size)
        linear(f"{block}.output.LayerNorm", hidden)
    linear("blip.vision_proj", 256, width)
    linear("blip.text_proj", 256, hidden)
    for index, (rows, columns) in zip(
        (0, 2, 4, 6, 7), ((1024, hidden), (128, 1024), (64, 128), (16, 64), (1, 16)), strict=True
    ):
        linear(f"mlp.layers.{index}", rows, columns)
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def reward_score(state, config, pixel_values: torch.Tensor, tokens) -> float:
    """ImageReward's forward pass, written from its architecture on its own names."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str, eps: float) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask=None) -> torch.Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    vision, text = config.vision_config, config.text_config
    weight, bias = (state[f"blip.visual_encoder.patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
    patches = F.conv2d(pixel_values, weight, bias, stride=vision.patch_size).flatten(2).transpose(1, 2)
    x = torch.cat([state["blip.visual_encoder.cls_token"], patches], dim=1)
    x = x + state["blip.visual_encoder.pos_embed"]
    for layer in range(vision.num_hidden_layers):
        block = f"blip.visual_encoder.blocks.{layer}"
        q, k, v = linear(norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv").chunk(3, dim=-1)
        x = x + linear(attend(q, k, v, vision.num_attention_heads), f"{block}.attn.proj")
        y = F.gelu(linear(norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1"))
        x = x + linear(y, f"{block}.mlp.fc2")
    seen = norm(x, "blip.visual_encoder.norm", 1e-6)

    ids, mask = tokens["input_ids"], tokens["attention_mask"].bool()[:, None, None]
    names = "blip.text_encoder.embeddings"
    x = state[f"{names}.word_embeddings.weight"][ids]
    x = norm(x + state[f"{names}.position_embeddings.weight"][: ids.shape[1]], f"{names}.LayerNorm", 1e-12)
    for layer in range(text.num_hidden_layers):
        block = f"blip.text_encoder.encoder.layer.{layer}"
        for attention, source, own in (("attention", None, mask), ("crossattention", seen, None)):
            part = f"{block}.{attention}"
            source = x if source is None else source
            q, k, v = (
                linear(where, f"{part}.self.{name}")
                for name, where in (("query", x), ("key", source), ("value", source))
            )
            y = linear(attend(q, k, v, text.num_attention_heads, own), f"{part}.output.dense")
            x = norm(y + x, f"{part}.output.LayerNorm", 1e-12)
        y = linear(F.gelu(linear(x, f"{block}.intermediate.dense")), f"{block}.output.dense")
        x = norm(y + x, f"{block}.output.LayerNorm", 1e-12)
    x = x[:, 0]
    for index in (0, 2, 4, 6, 7):
        x = linear(x, f"mlp.layers.{index}")
    return (x.item() - 0.16717362830052426) / 1.0333394966054072


TINY_BLIP = {
    "vision_config": TOWER | {"image_size": SIZE, "patch_size": 4, "layer_norm_eps": 1e-6},
    "text_config": TOWER | {"hidden_size": 16, "encoder_hidden_size": 8, "vocab_size": 12},
}


def test_a_published_image_reward_file_scores_as_its_architecture_says(image, monkeypatch):
    from transformers import BlipConfig

    monkeypatch.setattr(reward, "BLIP_LARGE", TINY_BLIP)
    config = BlipConfig(**TINY_BLIP)
    state = random_state(reward_layout(config))
    path = folder("reward", "image_reward")
    torch.save(state, path / "ImageReward.pt")
    convert.convert(path, "image_reward")
    bert_tokenizer().save_pretrained(path / "tokenizer")
    scorer = load_scorer("reward", "cpu")
    for prompt in ("a red circle", "two " * 50):
        tokens = bert_tokenizer()(
            prompt, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
        )
        with torch.no_grad():
            wanted = reward_score(state, config, pixels.cut_square(image, SIZE)[None], tokens)
        assert scorer.score(image, prompt) == pytest.approx(wanted, rel=1e-4)


def test_image_reward_at_full_size_fills_every_weight_and_uses_every_tensor():
    from transformers import BlipConfig

    config = BlipConfig(**reward.BLIP_LARGE)
    with torch.device("meta"):
        source = {name: torch.empty(shape) for name, shape in reward_layout(config).items()}
        wanted = reward.Reward(config).state_dict()
    filled = to_reward(source, config, "ImageReward")
    assert {k: v.shape for k, v in filled.items()} == {k: v.shape for k, v in wanted.items()}
    # The two projections of BLIP's contrastive loss and a buffer of positions are all that is left over.
    assert len(filled) == len(source) - 2 * 2 - 1
    assert sum(tensor.numel() for tensor in filled.values()) == 446_206_689


@pytest.mark.parametrize("damage", ["missing", "strange", "shape"])
def test_a_layout_that_does_not_fit_is_an_error_that_names_the_tensor(damage):
    state = random_state(openclip_layout(clip_config()))
    if damage == "missing":
        del state["visual.proj"]
    elif damage == "strange":
        state["visual.extra"] = torch.zeros(1)
    else:
        state["ln_final.weight"] = torch.zeros(3)
    name = {"missing": "visual_projection", "strange": "visual.extra", "shape": "final_layer_norm"}[damage]
    with pytest.raises(UserError, match=rf"HPS\.pt: .*{name}"):
        to_transformers(state, clip_config(), "HPS.pt")


# Pixels -----------------------------------------------------------------------------------------


def test_cut_square_is_clips_own_processor(image):
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    for picture in (image, image.resize((9, 30)), image.resize((SIZE, SIZE))):
        own = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(pixels.cut_square(picture, SIZE), own, atol=1e-5)


def test_pad_square_keeps_the_whole_picture_and_blackens_the_rest():
    white = Image.new("RGB", (16, 8), "white")
    seen = pixels.pad_square(white, 8)
    black = -torch.tensor(pixels.MEAN) / torch.tensor(pixels.STD)
    assert torch.allclose(seen[:, 0, 0], black) and torch.allclose(seen[:, 7, 7], black)
    inside = (1 - torch.tensor(pixels.MEAN)) / torch.tensor(pixels.STD)
    assert torch.allclose(seen[:, 2:6].mean(dim=(1, 2)), inside, atol=1e-4)


def test_a_judge_that_gives_no_scores_and_one_without_a_folder_are_named():
    with pytest.raises(UserError, match=r"models/judges/nobody/judge\.json"):
        load_scorer("nobody")
    folder("oracle", "oracle")
    with pytest.raises(UserError, match="judge 'oracle' is of kind oracle, which gives no scores"):
        load_scorer("oracle")
