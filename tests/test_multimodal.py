"""Multimodal backbones: drawing by tokens, answering, and training on tokens, on a tiny random Janus."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selma.backbones.loading import fingerprint, load_backbone, load_pipeline
from selma.backbones.multimodal import Multimodal
from selma.experts import codes
from selma.ground.adapters import read_adapter
from selma.ground.backbones import is_multimodal
from selma.ground.errors import UserError
from selma.ground.items import Question
from selma.images import sampler, tokens
from selma.images.cache import room
from selma.judging.judge import Answer
from selma.judging.multimodal import MultimodalJudge
from selma.lora.adapter import add_lora, lora_parameters
from selma.lora.files import save_lora
from selma.runtime.drawing import Drawing
from selma.runtime.schema import load_yaml
from selma.variants.judges import multimodal
from selma.variants.objectives import next_token, token_dpo

TEXTS = ["a red circle", "two blue squares above a green cross", "", "a cross"]
DRAWING = Drawing(scheduler="tokens", steps=16, guidance=2.0, batch=8, resolution=32)
TARGETS = ["q_proj", "v_proj"]
ASKED = ("Is there a circle?", "Is the square blue?", "Are there exactly two crosses?")


@pytest.fixture(scope="module")
def opened(tiny_janus: Path) -> Multimodal:
    return load_backbone(tiny_janus)


@pytest.fixture
def own(tiny_janus: Path, tmp_path: Path) -> Path:
    """A copy of the backbone's folder, to spoil."""
    return shutil.copytree(tiny_janus, tmp_path / "janus")


def question(text: str, choices: tuple[str, ...] = ("yes", "no")) -> Question:
    return Question(text, text, choices, choices[0], (), "object")


def drawn(opened: Multimodal, texts: list[str], seeds: list[int], **options) -> dict[int, list[int]]:
    drawing = replace(DRAWING, **options.pop("drawing", {}))
    return {i: image.info["tokens"] for i, image in sampler.draw(opened, texts, seeds, drawing, **options)}


# Drawing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.5, 3.0])  # at 1, theirs fails
def test_the_most_likely_tokens_are_those_of_transformers_own_generate(opened, monkeypatch, guidance) -> None:
    ids, mask = opened.prompts(TEXTS)
    theirs = opened.model.generate(
        ids, attention_mask=mask.long(), generation_mode="image", do_sample=False, guidance_scale=guidance
    )
    monkeypatch.setattr(tokens, "invert", lambda probabilities, uniform: probabilities.argmax(-1))
    ours = tokens.sample(opened, ids, mask, torch.zeros(len(TEXTS), 16), guidance)
    assert ours.tolist() == theirs.tolist()


def test_every_cache_draws_the_same_tokens(opened, monkeypatch) -> None:
    """One of full size, as on a GPU, transformers' own that grows, and ours; of prompts some are padded."""
    from transformers import DynamicCache, StaticCache

    ids, mask = opened.prompts(TEXTS)
    assert not mask.all()
    uniform = torch.rand(len(TEXTS), 16, generator=torch.Generator().manual_seed(0))
    ours = room(opened.model, ids.shape[1] + 16)
    full = StaticCache(config=opened.model.config.get_text_config(), max_cache_len=ids.shape[1] + 16)
    found = []
    for cache in (ours, full, DynamicCache()):
        monkeypatch.setattr(tokens, "room", lambda model, length, cache=cache: cache)
        found.append(tokens.sample(opened, ids, mask, uniform, 3.0).tolist())
        assert cache.get_seq_length() == ids.shape[1] + 15  # the last token is not read again
    assert found[0] == found[1] == found[2]
    assert torch.equal(ours.layers[0].keys, cache.layers[0].keys)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), config=opened.model.config)
    assert isinstance(room(on_gpu, 20), StaticCache) and not isinstance(ours, StaticCache)


def test_an_image_depends_on_its_text_and_seed_alone(opened) -> None:
    seeds = [5, 6, 7, 8]
    together = drawn(opened, TEXTS, seeds)
    for i in range(4):
        assert drawn(opened, [TEXTS[i]], [seeds[i]])[0] == together[i]
    assert drawn(opened, TEXTS, seeds, done={0, 2}) == {i: together[i] for i in (1, 3)}
    parts = [drawn(opened, TEXTS, seeds, shard=(n, 2), drawing={"batch": 2}) for n in (1, 2)]
    assert parts[0] | parts[1] == together and not parts[0].keys() & parts[1].keys()
    assert drawn(opened, TEXTS, [9, 6, 7, 8])[0] != together[0]
    assert drawn(opened, ["a cross"], [5])[0] != together[0]


def test_images_are_what_the_decoder_makes_of_their_tokens(opened) -> None:
    ((_, image),) = sampler.draw(opened, TEXTS[:1], [3], DRAWING)
    assert image.size == (32, 32) and image.mode == "RGB"
    found = opened.model.model.vqmodel.decode(torch.tensor([image.info["tokens"]])).detach()[0]  # -1 to 1
    assert np.allclose(np.asarray(image) / 127.5 - 1, found.permute(1, 2, 0).clamp(-1, 1), atol=0.005)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=9).filter(lambda p: sum(p) > 0.01), st.floats(0, 0.999999)
)
def test_a_token_is_drawn_as_often_as_it_is_likely(weights: list[float], uniform: float) -> None:
    """The token is the one in whose share of the unit interval the number lies."""
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    token = int(tokens.invert(share[None], torch.tensor([uniform], dtype=torch.float64))[0])
    below = float(share[:token].sum())
    assert share[token] > 0
    assert below <= uniform + 1e-9 and uniform <= below + float(share[token]) + 1e-9


@pytest.mark.parametrize(
    ("changes", "method", "said"),
    [
        ({"scheduler": "ddim"}, "cfg", "drawing.scheduler is ddim; a multimodal backbone draws tokens"),
        ({"steps": 12}, "cfg", "drawing.steps is 12; this backbone draws 16 tokens an image"),
        ({"resolution": 64}, "cfg", "drawing.resolution is 64; this backbone draws 32 pixels alone"),
        ({}, "syngen", "guidance syngen needs a UNet's attention"),
    ],
)
def test_settings_of_a_diffusion_backbone_are_refused(opened, changes, method, said) -> None:
    with pytest.raises(UserError, match=said):
        next(sampler.draw(opened, TEXTS, [1] * 4, replace(DRAWING, **changes), method=method))


def test_tokens_are_no_scheduler_of_a_diffusion_backbone(tiny_backbone) -> None:
    with pytest.raises(UserError, match="scheduler: 'tokens' is unknown"):
        next(sampler.draw(load_pipeline(tiny_backbone), ["a"], [1], DRAWING))


# Answering -------------------------------------------------------------------------------------


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def alone(opened: Multimodal, image: Image.Image, text: str) -> tuple[float, float]:
    """p(yes) and p(no) by transformers' own processor and forward pass, one question in a conversation."""
    asked = opened.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
        add_generation_prompt=True,
    )
    inputs = opened.processor(text=asked, images=[image], return_tensors="pt")
    with torch.no_grad():
        found = opened.model(**inputs).logits[0, -1].softmax(-1)
    ids = [opened.tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no")]
    return found[ids[0]].item(), found[ids[1]].item()


def test_questions_side_by_side_are_answered_as_if_each_were_asked_alone(opened, tiny_janus) -> None:
    judge = MultimodalJudge(opened, tiny_janus)
    images = [picture(seed) for seed in range(3)]
    questions = [[question(text) for text in ASKED[: 3 - i]] for i in range(3)]  # three, two, one
    came = {
        key: said
        for group in judge.answers(zip(images, questions, strict=True), batch=2)
        for key, said in group.items()
    }
    assert set(came) == {(i, j) for i in range(3) for j in range(3 - i)}
    for (i, j), said in came.items():
        yes, no = alone(opened, images[i], ASKED[j])
        assert said.margin == pytest.approx(yes - no, abs=1e-5)
        assert said.p_yes == pytest.approx(yes / (yes + no), abs=1e-4)
        assert said.answer == ("yes" if yes >= no else "no")


def test_a_question_of_more_than_yes_or_no_is_refused(opened, tiny_janus) -> None:
    judge = MultimodalJudge(opened, tiny_janus)
    with pytest.raises(UserError, match=r"says yes or no; 'What colour.*has the choices red, blue"):
        judge.check([question("What colour is it?", ("red", "blue"))])


def test_the_judge_opens_a_folder_and_takes_the_lora_that_drew_the_images(tiny_janus, tmp_path) -> None:
    lora = a_lora(tiny_janus, tmp_path / "lora", scale=3.0)
    said = {}
    for name, own in (("plain", {}), ("self", {"lora": lora})):
        judge = multimodal.load(tiny_janus, {}, "cpu", "float32", **own)
        (said[name],) = judge.answer(picture(1), [question(ASKED[0])])
    assert isinstance(said["plain"], Answer) and said["plain"].margin != said["self"].margin
    by_lora = load_backbone(tiny_janus, lora=lora)
    yes, no = alone(by_lora, picture(1), ASKED[0])
    assert said["self"].margin == pytest.approx(yes - no, abs=1e-5)


def test_the_processors_system_prompt_stands_before_questions_alone(own: Path) -> None:
    """Janus-Pro's processor has one."""
    file = own / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_default_system_prompt": True}))
    opened = load_backbone(own)
    asked = opened.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED[0]}]}],
        add_generation_prompt=True,
    )
    theirs = opened.processor(text=asked, images=[picture(1)], return_tensors="pt")["input_ids"][0].tolist()
    assert opened.questions(ASKED[:1])[0] == theirs
    assert len(theirs) > 100
    (said,) = MultimodalJudge(opened, own).answer(picture(1), [question(ASKED[0])])
    yes, no = alone(opened, picture(1), ASKED[0])
    assert said.margin == pytest.approx(yes - no, abs=1e-5)
    assert opened.prompts(TEXTS)[0].shape[1] < 40


@pytest.mark.parametrize("way", ["prompts", "questions"])
def test_a_text_with_a_token_of_images_is_refused(opened, way) -> None:
    with pytest.raises(UserError, match="holds <image_placeholder>, which stands for an image"):
        getattr(opened, way)(["a red <image_placeholder>"])


# Folders ---------------------------------------------------------------------------------------


def a_lora(backbone: Path, folder: Path, scale: float = 1.0, seed: int = 0) -> Path:
    """A LoRA folder with random factors for the backbone's language model."""
    writer = codes.Writer(load_backbone(backbone))
    add_lora(writer.language_model, 2, 4.0, TARGETS, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in writer.parameters():
            if parameter.requires_grad:
                parameter.data = scale * torch.randn_like(parameter) * 0.3
    card = {"rank": 2, "alpha": 4.0, "targets": TARGETS, "backbone": fingerprint(backbone)}
    codes.save_writer(writer, folder, card, torch.float32)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_adapter_opens_to_the_model_that_was_trained(tiny_janus, tmp_path, dtype) -> None:
    lora = a_lora(tiny_janus, tmp_path / "lora")
    writer = codes.Writer(load_backbone(tiny_janus, dtype=dtype))
    add_lora(writer.language_model, 2, 4.0, TARGETS, 0)
    factors = read_adapter(lora).factors
    for name, parameter in writer.named_parameters():
        if parameter.requires_grad:
            module = name.partition(".lora_")[0]
            parameter.data = factors[module][0 if ".lora_A." in name else 1]
    ids, mask = writer.opened.prompts(TEXTS)
    images = torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        trained = writer(ids, mask, images)
        loaded = codes.Writer(load_backbone(tiny_janus, dtype=dtype, lora=lora))(ids, mask, images)
        base = codes.Writer(load_backbone(tiny_janus, dtype=dtype))(ids, mask, images)
    exact = 1e-4 if dtype == "float32" else 0.05
    assert (trained - loaded).abs().mean() < exact < (trained - base).abs().mean()


def test_other_loras_are_refused(tiny_janus, tiny_backbone, tmp_path) -> None:
    lora = a_lora(tiny_janus, tmp_path / "lora")
    card = json.loads((lora / "lora.json").read_text())
    save_lora(tmp_path / "other", _state(lora), {**card, "backbone": "f" * 64})
    with pytest.raises(UserError, match="was trained on a different backbone"):
        load_backbone(tiny_janus, lora=tmp_path / "other")
    state = {key.replace("layers.1", "layers.7"): value for key, value in _state(lora).items()}
    save_lora(tmp_path / "deeper", state, card)
    with pytest.raises(UserError, match=r"layers\.7.*this backbone has no such layer"):
        load_backbone(tiny_janus, lora=tmp_path / "deeper")
    with pytest.raises(UserError, match="needs a diffusion backbone"):
        load_pipeline(tiny_janus)
    assert is_multimodal(tiny_janus) and not is_multimodal(tiny_backbone)


def _state(lora: Path) -> dict[str, torch.Tensor]:
    return {
        f"{name}.lora_{part}.weight": factor
        for name, factors in read_adapter(lora).factors.items()
        for part, factor in zip("AB", factors, strict=True)
    }


def test_folders_that_cannot_draw_or_answer_say_why(own: Path, opened) -> None:
    (own / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_backbone(own)


def test_a_tokenizer_without_image_tokens_is_refused(own: Path) -> None:
    file = own / "tokenizer_config.json"
    config = json.loads(file.read_text())
    for key in ("extra_special_tokens", "image_token", "boi_token", "eoi_token"):
        config.pop(key, None)
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"janus: .*(image_token|boi_token)"):
        load_backbone(own)


def test_broken_weights_are_one_line(own: Path) -> None:
    file = own / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="this backbone cannot be opened"):
        load_backbone(own)


def test_missing_weights_are_named(own: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(own / "model.safetensors")
    gone = next(name for name in state if "layers.1.mlp" in name)
    save_file(
        {name: value for name, value in state.items() if name != gone},
        own / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(UserError, match=r"its weights lack .*layers\.1\.mlp.*, 1 tensors in total"):
        load_backbone(own)


def test_a_head_that_is_not_there_is_not_made_up(own: Path) -> None:
    config = json.loads((own / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"its weights lack lm_head\.weight"):
        load_backbone(own)


def test_a_tokenizer_without_padding_pads_with_its_end(own: Path, tiny_janus) -> None:
    for name in ("tokenizer_config.json",):
        config = json.loads((own / name).read_text())
        config.pop("pad_token", None)
        (own / name).write_text(json.dumps(config))
    opened = load_backbone(own)
    assert opened.pad == opened.tokenizer.eos_token_id
    assert opened.prompts(TEXTS)[1].sum() == load_backbone(tiny_janus).prompts(TEXTS)[1].sum()


def janus_pro_1b() -> Multimodal:
    """The full configuration of deepseek-community/Janus-Pro-1B, on the meta device: no weights."""
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )

    config = JanusConfig(
        text_config=LlamaConfig(
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=16,
            vocab_size=102400,
            max_position_embeddings=16384,
        ),
        vision_config=JanusVisionConfig(),
        vq_config=JanusVQVAEConfig(),
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return Multimodal(JanusForConditionalGeneration(config), None)


def test_janus_pro_1b_has_the_layers_and_the_size_that_this_expects() -> None:
    found = janus_pro_1b()
    assert (found.image_tokens, found.side) == (24**2, 384)
    sizes = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in (
            ("vision", found.model.model.vision_model),
            ("vq", found.model.model.vqmodel),
            ("all", found.model),
        )
    }
    assert 0.29e9 < sizes["vision"] < 0.32e9  # SigLIP large, 384 px
    assert 0.06e9 < sizes["vq"] < 0.08e9
    assert round(sizes["all"] / 1e6, 1) == 2076.6, "as docs/real-runs.md says"


def test_the_adapter_of_profile_janus_has_the_size_that_is_documented() -> None:
    """Every key that a file of it will have is a linear layer's of the model, of that layer's shape."""
    said = load_yaml(Path(__file__).parents[1] / "profiles/janus.yaml")
    opened = janus_pro_1b()
    drawings = (said["images"]["drawing"], said["evaluate"]["drawing"])
    assert {each["steps"] for each in drawings} == {opened.image_tokens}
    assert {each["resolution"] for each in (*drawings, said["expert"])} == {opened.side}
    layers = {
        name: (layer.out_features, layer.in_features)
        for name, layer in opened.model.model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    rank, targets = said["expert"]["rank"], said["expert"]["targets"]
    writer = codes.Writer(opened)
    with torch.device("meta"):
        add_lora(writer.language_model, rank, said["expert"]["alpha"], targets, 0)
    trained = {
        f"language_model.{key}": value for key, value in lora_parameters(writer.language_model).items()
    }
    assert len(trained) == 24 * len(targets) * 2 and len(targets) == 7
    for key, value in trained.items():
        layer, _, part = key.rpartition(".lora_")
        outs, ins = layers[layer]
        assert value.shape == ((rank, ins) if part[0] == "A" else (outs, rank)), key
    assert round(sum(value.numel() for value in trained.values()) / 1e6, 1) == 121.1


# Training --------------------------------------------------------------------------------------


def a_batch(opened: Multimodal, n: int = 6, losers: bool = True) -> codes.Codes:
    random = torch.Generator().manual_seed(0)
    ids, mask = opened.prompts([TEXTS[i % 4] for i in range(n)])
    shown = [torch.randint(50, (n, 16), generator=random) for _ in range(2)]
    return codes.Codes(ids, mask, opened.without_words(ids), shown[0], shown[1] if losers else None)


def trainer(tiny_janus: Path) -> codes.Writer:
    writer = codes.Writer(load_backbone(tiny_janus))
    add_lora(writer.language_model, 2, 4.0, TARGETS, 0)
    return writer


def test_log_probabilities_are_those_by_which_tokens_are_drawn(opened) -> None:
    """The chain rule: p of an image is the product of the distributions that drawing inverts."""
    batch = a_batch(opened, 3)
    seen: list[torch.Tensor] = []

    class Forced(Exception):
        pass

    def forced(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        seen.append(probabilities)
        return batch.codes[:, len(seen) - 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "invert", forced)
        tokens.sample(opened, batch.ids, batch.mask, torch.zeros(3, 16), 1.0)
    drawn = torch.stack([p.gather(1, batch.codes[:, i, None])[:, 0] for i, p in enumerate(seen)], 1)
    with torch.no_grad():
        assert torch.allclose(
            codes.Writer(opened)(batch.ids, batch.mask, batch.codes), drawn.log(), atol=1e-4
        )


def test_dpo_begins_at_log_2_and_learns_what_is_preferred(tiny_janus) -> None:
    writer = trainer(tiny_janus)
    batch = a_batch(writer.opened)
    with torch.no_grad():
        reference, lost = (writer(batch.ids, batch.mask, each).sum(1) for each in (batch.codes, batch.losers))
    batch = replace(batch, reference=reference, lost=lost)
    learnt = [parameter for parameter in writer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=2e-2)
    losses = []
    for _ in range(60):
        loss = token_dpo.batch_loss(writer, batch, beta=0.1)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    assert losses[-1] < 0.5 * losses[0]
    assert (token_dpo.margins(writer, batch) > 0).all()
    assert all(p.grad is None for p in writer.opened.model.parameters() if not p.requires_grad)


def test_a_larger_beta_asks_for_a_smaller_change(tiny_janus) -> None:
    """The loss is -log sigmoid(beta m) of the margin m: its slope at the start is beta / 2."""
    writer = trainer(tiny_janus)
    batch = a_batch(writer.opened)
    shift = torch.full((6,), 2.0)
    with torch.no_grad():
        reference, lost = (writer(batch.ids, batch.mask, each).sum(1) for each in (batch.codes, batch.losers))
        moved = replace(batch, reference=reference - shift, lost=lost)  # as if the winner had risen by 2
        found = [token_dpo.batch_loss(writer, moved, beta=beta).item() for beta in (0.1, 0.5)]
    assert found == pytest.approx([np.log1p(np.exp(-0.2)), np.log1p(np.exp(-1.0))], abs=1e-5)


def test_next_token_loss_is_transformers_cross_entropy(opened) -> None:
    batch = a_batch(opened, 4, losers=False)
    writer = codes.Writer(opened)
    with torch.no_grad():
        ours = next_token.batch_loss(writer, batch).item()
        states = opened.model.model.language_model(
            inputs_embeds=torch.cat(
                [
                    opened.model.get_input_embeddings()(batch.ids),
                    opened.model.prepare_embeddings_for_image_generation(batch.codes),
                ],
                1,
            ),
            attention_mask=torch.cat([batch.mask, torch.ones_like(batch.codes, dtype=torch.bool)], 1),
        ).last_hidden_state
        logits = opened.model.model.generation_head(states[:, -17:-1])
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.codes.flatten()).item()
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_dropped_captions_are_without_words(opened) -> None:
    batch = a_batch(opened, 4)
    settings = type("Settings", (), {"batch": 4, "caption_dropout": 0.5})
    dropped = [codes.draw_codes(None, batch, settings, 7, step) for step in range(20)]
    share = np.mean([(each.ids == each.empty).all(1).float().mean().item() for each in dropped])
    assert 0.4 < share < 0.85  # one of four texts is empty anyway
    assert torch.equal(dropped[0].ids, codes.draw_codes(None, batch, settings, 7, 0).ids)
