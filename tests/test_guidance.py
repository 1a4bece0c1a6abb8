"""StructureDiffusion and SynGen, on tiny random backbones of every class, against their formulas."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from selma.backbones.conditioning import encode_texts
from selma.backbones.loading import load_pipeline
from selma.backbones.schedulers import make_scheduler
from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.ground.items import Item, Question, write_split
from selma.ground.pairs import read_image, read_pairs
from selma.images import folder, sampler
from selma.images.attention import Watcher, cross_attention
from selma.images.guide import Guide
from selma.images.spans import token_span, tokenizers
from selma.runtime.params import Drawing
from selma.variants.guidance.syngen import Pair, distances, loss, pairs
from stages import model, sample
from tests.unets import SD2, SD14, SDXL

# CLIP's encoder is causal: a phrase that a prompt begins with reads the same by itself, so others have one later on.
TEXTS = [
    "a red circle and a blue square",
    "above it",
    "beside it, the small dog is black",
    "not here",
    "only two tall green trees",
]
PLAIN = (1, 3)  # the texts without a noun phrase
SEEDS = [3, 1, 4, 159, 26]
DRAWING = Drawing(scheduler="ddim", steps=4, guidance=3.0, batch=5)
# How far a random backbone's latents must go for its images to change, and to be images still.
METHODS = {"structure": {}, "syngen": {"step": 0.5}}
KINDS = ["tiny_backbone", "tiny_backbone_epsilon", "tiny_sdxl", "tiny_sdxl_v"]
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module", params=KINDS)
def pipe(request):
    return load_pipeline(request.getfixturevalue(request.param))


def drawn(pipe, method, options=None, texts=TEXTS, seeds=SEEDS, **settings):
    options = METHODS.get(method, {}) if options is None else options
    images = sampler.draw(pipe, texts, seeds, replace(DRAWING, **settings), method=method, options=options)
    return [np.asarray(image, dtype=int) for _, image in images]


# What an image depends on ----------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_prompt_without_a_noun_phrase_draws_the_plain_models_image(pipe, method, guidance):
    """To the bit, in a batch with others, which change."""
    plain, ours = drawn(pipe, "cfg", guidance=guidance), drawn(pipe, method, guidance=guidance)
    assert [i for i in range(len(TEXTS)) if (plain[i] == ours[i]).all()] == list(PLAIN)


@each_method
def test_an_image_does_not_depend_on_its_batch(pipe, method):
    together = drawn(pipe, method)
    for batch in (1, 2):
        for one, other in zip(drawn(pipe, method, batch=batch), together, strict=True):
            assert np.abs(one - other).max() <= 1
    for i, text in enumerate(TEXTS):
        (alone,) = drawn(pipe, method, texts=[text], seeds=[SEEDS[i]])
        assert np.abs(alone - together[i]).max() <= 1


@each_method
def test_threads_that_draw_side_by_side_keep_apart(pipe, method, monkeypatch):
    apart = drawn(pipe, method, batch=1)
    monkeypatch.setattr(
        sampler, "PART_PIXELS", 32 * 32
    )  # parts of one image, as many at once as there are threads
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        beside = drawn(pipe, method, batch=3)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(apart, beside, strict=True):
        assert np.abs(one - other).max() <= 1


@each_method
def test_a_stopped_folder_is_finished_byte_for_byte(pipe, method, tmp_path):
    rows = [
        {"file_name": f"{i}.webp", "text": text, "seed": seed}
        for i, (text, seed) in enumerate(zip(TEXTS, SEEDS, strict=True))
    ]
    how = {"method": method, "options": METHODS[method]}
    folder.draw_folder(pipe, rows, tmp_path / "whole", replace(DRAWING, batch=3), **how)
    shutil.copytree(tmp_path / "whole", tmp_path / "left")
    for name in ("metadata.jsonl", "0.webp", "4.webp"):
        (tmp_path / "left" / name).unlink()
    folder.draw_folder(pipe, rows, tmp_path / "left", replace(DRAWING, batch=3), **how)
    for row in rows:
        name = row["file_name"]
        assert (tmp_path / "left" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_drawing_leaves_the_unet_as_it_was(pipe):
    before = {name: vars(layer).get("forward") for name, layer in pipe.unet.named_modules()}
    drawn(pipe, "syngen")
    assert {name: vars(layer).get("forward") for name, layer in pipe.unet.named_modules()} == before
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


# StructureDiffusion ----------------------------------------------------------------------------


class Dense:
    """Attention as the paper has it: one softmax, and the mean of what it reads of every V_i."""

    def __init__(self, values):
        self.values = values  # V_0 to V_k of the text

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, **_):
        states = x if encoder_hidden_states is None else encoder_hidden_states
        scores = attn.get_attention_scores(
            attn.head_to_batch_dim(attn.to_q(x)), attn.head_to_batch_dim(attn.to_k(states))
        )
        read = attn.batch_to_head_dim(scores @ attn.head_to_batch_dim(attn.to_v(states)))
        if encoder_hidden_states is not None:
            own = scores[-attn.heads :]  # of the text's branch, which comes last
            values = [attn.head_to_batch_dim(attn.to_v(value[None])) for value in self.values]
            read[-1:] = sum(attn.batch_to_head_dim(own @ value) for value in values) / len(values)
        return attn.to_out[0](read)


@pytest.mark.parametrize("kind", KINDS)
def test_structure_is_the_papers_sum_over_noun_phrases(kind, request):
    text, phrases = (
        TEXTS[0],
        {"a red circle": 1, "a blue square": 14},
    )  # and the place of the first of its letters
    backbone = request.getfixturevalue(kind)
    (ours,) = drawn(load_pipeline(backbone), "structure", texts=[text], seeds=[7])
    pipe = load_pipeline(backbone)
    states = encode_texts(pipe, [text, *phrases]).states
    values = [states[0]]
    for (phrase, first), own in zip(phrases.items(), states[1:], strict=True):
        letters = len(phrase.replace(" ", ""))
        values.append(states[0].clone())
        values[-1][first : first + letters] = own[1 : 1 + letters]
    pipe.unet.set_attn_processor(Dense(values))
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config)
    noise = torch.Generator().manual_seed(7)
    (theirs,) = pipe(text, num_inference_steps=4, guidance_scale=3.0, generator=noise).images
    assert np.abs(ours - np.asarray(theirs, dtype=int)).max() <= 1
    (plain,) = drawn(load_pipeline(backbone), "cfg", texts=[text], seeds=[7])
    assert np.abs(ours - plain).max() > 1


# SynGen ----------------------------------------------------------------------------------------


def kl(p, q):
    return torch.distributions.kl_divergence(
        torch.distributions.Categorical(probs=p), torch.distributions.Categorical(probs=q)
    )


def test_the_loss_is_the_papers():
    maps = torch.rand(2, 16, 9, generator=torch.Generator().manual_seed(0)) + 0.01
    given = [[Pair((2, 3), (4,), (1, 5, 6)), Pair((1,), (4,), ())], []]

    def apart(a, b):
        p, q = maps[0, :, a], maps[0, :, b]
        return float(kl(p, q) + kl(q, p)) / 2

    near = max(apart(2, 4), apart(3, 4)) + apart(1, 4)
    far = [max(apart(2, u), apart(3, u)) + apart(4, u) for u in (1, 5, 6)]
    assert loss(maps, given).tolist() == pytest.approx([near - sum(far) / 3 / 2, 0.0], abs=1e-5)


def test_pairs_are_places_of_tokens(pipe):
    """Of a tokenizer of single letters: the start token, then every letter."""
    first, none, *_ = pairs(pipe, TEXTS)
    outside = (1, 11, 12, 13, 14, *range(15, 25))
    assert first[0] == Pair((2, 3, 4), tuple(range(5, 11)), outside) and len(first) == 2
    assert none == []
    (cut,) = pairs(pipe, ["a " * 80 + "red circle"])
    assert cut == [], "what a text encoder does not read"


def look(pipe, texts, t=501):
    """What `Guide.shift` looks through: from latents to the maps of their texts' tokens."""
    watcher = Watcher(pipe.unet)
    encoded = encode_texts(pipe, texts).to(pipe.device, pipe.unet.dtype)
    ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]]).expand(len(texts), -1)

    def maps(x, which):
        with watcher.watching():
            return watcher.look(x, torch.tensor(t), encoded[list(which)].unet_inputs(ids[list(which)]))

    return maps


def near(maps, found):
    """The mean distance of a noun to what modifies it, of each text that has pairs."""
    apart = distances(maps)
    return torch.stack(
        [
            torch.stack([apart[i][list(pair.modifier)][:, list(pair.noun)].max() for pair in some]).mean()
            for i, some in enumerate(found)
            if some
        ]
    )


def check_a_step_brings_them_nearer(pipe, texts, step):
    """One step on each image's latents: the loss falls, and a noun's map and its modifier's come nearer."""
    encoded = encode_texts(pipe, texts)
    guide = Guide("syngen", {"step": step}, pipe, texts, encoded)
    side = pipe.unet.config.sample_size
    latents = torch.randn(len(texts), 4, side, side, generator=torch.Generator().manual_seed(1))
    maps, found = look(pipe, texts), pairs(pipe, texts)
    rows = list(range(len(texts)))
    with torch.inference_mode():
        moved = latents + guide.shift(rows, latents, 0.0, maps)
        assert guide.shift(rows, latents, 0.5, maps) is None, "the second half of the steps is left alone"
    with torch.no_grad():
        before, after = maps(latents, rows), maps(moved, rows)
    fell = loss(after, found) < loss(before, found)
    assert fell.tolist() == [bool(some) for some in found]
    assert near(after, found).mean() < near(before, found).mean()


def test_a_step_brings_a_noun_and_its_modifier_nearer(pipe):
    check_a_step_brings_them_nearer(pipe, TEXTS, 0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["tiny_backbone", "tiny_sdxl"])
def test_a_unet_in_half_precision_takes_nearly_the_same_step(kind, dtype, request):
    texts = [
        "a x y near a v w",
        "b c under d e",
    ]  # of a token a word: which of several is farthest, rounding decides
    latents = torch.randn(len(texts), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    steps = []
    for name in ("float32", dtype):
        pipe = load_pipeline(request.getfixturevalue(kind), dtype=name)
        guide = Guide("syngen", {"step": 1.0}, pipe, texts, encode_texts(pipe, texts))
        steps.append(guide.shift(range(len(texts)), latents, 0.0, look(pipe, texts)).flatten())
    assert steps[1].dtype == torch.float32
    assert (steps[1] - steps[0]).norm() < 0.3 * steps[0].norm()


@pytest.mark.skipif(not Path("models/backbones/shapes/unet").is_dir(), reason="`dvc pull` fetches it")
def test_a_step_on_the_embedded_world_brings_them_nearer():
    texts = ["a red circle next to a small blue square", "two green crosses", "alone", "a cross is purple"]
    check_a_step_brings_them_nearer(load_pipeline(Path("models/backbones/shapes")), texts, 0.05)


def test_maps_are_the_softmax_of_the_layers_themselves(pipe):
    """Against diffusers' own unfused attention."""
    kept = []

    class Unfused:
        def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, **_):
            states = x if encoder_hidden_states is None else encoder_hidden_states
            scores = attn.get_attention_scores(
                attn.head_to_batch_dim(attn.to_q(x)), attn.head_to_batch_dim(attn.to_k(states))
            )
            if encoder_hidden_states is not None:
                kept.append(scores.unflatten(0, (-1, attn.heads)).mean(dim=1))
            return attn.to_out[0](attn.batch_to_head_dim(scores @ attn.head_to_batch_dim(attn.to_v(states))))

    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = look(pipe, TEXTS[:2])(latents, [0, 1])
    own = pipe.unet.attn_processors
    pipe.unet.set_attn_processor(Unfused())
    ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]]).expand(2, -1)
    with torch.no_grad():
        pipe.unet(latents, torch.tensor(501), **encode_texts(pipe, TEXTS[:2]).unet_inputs(ids))
    pipe.unet.set_attn_processor(own)
    assert torch.allclose(
        ours, torch.stack(kept).mean(dim=0), atol=1e-6
    )  # a tiny UNet attends at one resolution
    assert torch.allclose(ours.sum(dim=-1), torch.ones(2, 16), atol=1e-5)


def test_a_sampler_that_scales_its_latents_takes_the_same_step(tiny_backbone):
    """Euler's latents are DDIM's, larger: the same solver, so that images nearly agree, guided or not."""
    pipe = load_pipeline(tiny_backbone)
    images = {
        (name, method): np.stack(drawn(pipe, method, scheduler=name, steps=20))
        for name in ("ddim", "euler")
        for method in ("cfg", "syngen")
    }
    effect = np.abs(images["ddim", "syngen"] - images["ddim", "cfg"]).mean()
    own = np.abs(images["ddim", "cfg"] - images["euler", "cfg"]).mean()
    assert np.abs(images["ddim", "syngen"] - images["euler", "syngen"]).mean() < own + effect / 4


@pytest.mark.parametrize(("config", "layers", "level"), [(SD14, 5, 2), (SD2, 5, 2), (SDXL, 60, 2)])
def test_published_unets_are_watched_at_a_quarter_of_their_latents(config, layers, level):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    found = cross_attention(unet)
    names = [name for name, layer in unet.named_modules() if layer in found]
    assert len(found) == layers and all(isinstance(layer, Attention) for layer in found)
    assert all(name.startswith((f"down_blocks.{level}", "mid_block", "up_blocks")) for name in names)


def test_a_prompts_words_are_found_among_its_tokens(pipe):
    text = "  A Red,circle's café 42"
    for tokenizer in tokenizers(pipe):
        ids = tokenizer(text)["input_ids"]
        for word in ("Red", "circle's", "café", "42"):
            at = text.index(word)
            span = token_span(tokenizer, text, (at, at + len(word)))
            assert tokenizer.decode(ids[span.start : span.stop]).replace(" ", "") == word.lower()


# Settings and stages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("syngen", {"step": -1.0}, "options of syngen: step is -1.0; it must be greater than or equal to 0"),
        ("syngen", {"until": 2.0}, "until is 2.0; it must be less than or equal to 1"),
        ("structure", {"parser": "nltk"}, "parser is 'nltk'; it must be one of: rules, spacy"),
        ("structure", {"steps": 3}, "steps"),
        ("cfg", {"step": 1.0}, "cfg has no settings"),
        ("magic", {}, "guidance is 'magic'; it must be one of: cfg, structure, syngen"),
    ],
)
def test_bad_settings_are_one_line_before_anything_is_drawn(tiny_backbone, method, options, told):
    with pytest.raises(UserError, match=told) as error:
        drawn(load_pipeline(tiny_backbone), method, options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["tiny_backbone", "tiny_sdxl"])
def test_rows_of_models_go_through_their_stages(kind, make_project, monkeypatch, request):
    """Their settings reach the images; model.json and the dataset card name them."""
    rows = {
        "base": {"guidance": "cfg"},
        "structure": {"guidance": "structure"},
        "far": {"guidance": "syngen", "options": {"step": 0.5}},
        "still": {"guidance": "syngen", "options": {"step": 0.0}},
        "parsed": {"guidance": "syngen", "options": {"parser": "spacy"}},
    }
    weights = "models/backbones/tiny"
    shutil.copytree(
        request.getfixturevalue(kind), (root := make_project_root(make_project, rows, weights)) / weights
    )
    monkeypatch.chdir(root)
    question = Question("1", "Is there a circle?", ("yes", "no"), "yes", (), "shape")
    items = [Item(f"count-{i}", text, "count", "shapes", (question,)) for i, text in enumerate(TEXTS)]
    write_split(Path("data/benchmarks/shapes"), "test", items)
    for name in rows:
        monkeypatch.setenv("DVC_STAGE", f"model@{name}")
        model.main(name)
    assert "options" not in read_json(Path("models/rows/base/model.json"))
    assert read_json(Path("models/rows/far/model.json"))["options"] == {
        "step": 0.5,
        "until": 0.5,
        "parser": "rules",
    }
    images = {}
    for name in ("base", "structure", "far", "still"):
        monkeypatch.setenv("DVC_STAGE", f"sample@{name}-shapes")
        sample.main(name, "shapes")
        found = read_pairs(Path("data/samples") / name / "shapes")
        images[name] = [np.asarray(read_image(pair.file), dtype=int) for pair in found]
    assert "(syngen step=0.5 until=0.5 parser=rules)" in Path("data/samples/far/shapes/README.md").read_text()
    same = {
        name: [bool((a == b).all()) for a, b in zip(images[name], images["base"], strict=True)]
        for name in images
    }
    assert same["structure"] == same["far"] == [i in PLAIN for i in range(len(TEXTS))]
    assert all(same["still"])

    environment = {**os.environ, "DVC_STAGE": "sample@parsed-shapes", "PYTHONPATH": str(no_spacy(root))}
    command = [sys.executable, "-m", "stages.sample", "parsed", "shapes"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and "set parser to rules" in ended.stderr.splitlines()[-1]
    assert not list(root.rglob("data/samples/parsed/**/*.webp")) + list(root.rglob(".work/**/*.webp"))


def make_project_root(make_project, rows, weights):
    models = {name: {"weights": weights, **row} for name, row in rows.items()}
    settings = {
        "models": models,
        "compare": [["far", "base"]],
        "images.backbone": "shapes",
        "expert.backbone": "tiny",
        "own.backbones": {"tiny": {"path": "/nowhere"}},
        "evaluate.images_per_prompt": 1,
        "evaluate.drawing.steps": 2,
        "evaluate.drawing.batch": 5,
    }
    root = make_project("project", settings)
    shutil.rmtree(root / weights, ignore_errors=True)
    return root


def no_spacy(root):
    """A folder for PYTHONPATH in which spaCy is broken, wherever else it may be installed."""
    (root / "without/spacy").mkdir(parents=True)
    (root / "without/spacy/__init__.py").write_text("raise ImportError('not here')\n")
    return root / "without"


@pytest.mark.parametrize("kind", ["tiny_backbone", "tiny_sdxl"])
def test_the_method_that_the_docs_write_is_what_it_says(kind, make_project, request):
    """The file from docs/guidance.md, put where it says, with a row of its own; diffusers has the same method."""
    page = (Path(__file__).parents[1] / "docs/guidance.md").read_text(encoding="utf-8")
    code = page.partition("## Write your own")[2].partition("```python\n")[2].partition("```")[0]
    weights = "models/backbones/tiny"
    rows = {"far": {"guidance": "cfg"}, "base": {"guidance": "cfg"}}
    root = make_project_root(make_project, rows, weights)
    shutil.copytree(request.getfixturevalue(kind), root / weights)
    (root / "selma/variants/guidance/rescaled.py").write_text(code)
    script = f"""
from pathlib import Path
from selma.backbones.loading import load_pipeline
from selma.images import sampler
from selma.runtime.params import Drawing
drawing = Drawing(scheduler="ddim", steps=4, guidance=60.0, batch=5)
pipe = load_pipeline(Path({weights!r}))
drawn = sampler.draw(pipe, {TEXTS[:2]!r}, [1, 2], drawing, method="rescaled", options={{"share": 0.9}})
for i, image in drawn:
    image.save(f"{{i}}.png")
"""
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
    pipe = load_pipeline(request.getfixturevalue(kind))
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config)
    noise = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    theirs = pipe(
        TEXTS[:2], num_inference_steps=4, guidance_scale=60.0, guidance_rescale=0.9, generator=noise
    ).images
    plain = drawn(pipe, "cfg", texts=TEXTS[:2], seeds=[1, 2], guidance=60.0)
    for i, image in enumerate(theirs):
        ours = np.asarray(read_image(root / f"{i}.png"), dtype=int)
        assert np.abs(ours - np.asarray(image, dtype=int)).max() <= 1 < np.abs(ours - plain[i]).max()
