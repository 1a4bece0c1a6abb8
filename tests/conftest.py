"""Shared fixtures: tiny random backbones, real StableDiffusionPipeline folders made in place."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Time says nothing on a busy machine, so no example has a deadline.
settings.register_profile("selma", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("selma")
os.environ.setdefault("SELMA_TRACKING", "off")
os.environ.setdefault("SELMA_WARM", "off")  # tests/test_warm.py turns it on
os.environ.setdefault("HF_HUB_OFFLINE", "1")


# The end-to-end files that take longest: begun late, one of them would run alone at the end.
LONGEST = (
    "test_pipeline",
    "test_survival",
    "test_self_improvement",
    "test_users",
    "test_dvc_user",
    "test_remotes",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, then the end-to-end ones, the longest files of them first."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        name = item.path.stem
        late = item.get_closest_marker("e2e") is not None
        return late, LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


def _text_part(width: int, layers: int, projection: int | None = None) -> tuple[object, object]:
    """A tokenizer of single letters and a random text encoder, with a projection of its pooled state if asked."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    tokenizer = CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=projection or width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return tokenizer, (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _vae() -> object:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=0.5,
    )


def _spread(encoder: object) -> None:
    """The default init hardly tells two texts apart."""
    for parameter in encoder.parameters():
        parameter.data = parameter.data * 5 if parameter.dim() > 1 else parameter.data


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_backbone(folder: Path, prediction_type: str, seed: int = 0) -> Path:
    """Write a random pipeline that draws 32 px images from 8 x 8 latents."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, text_encoder = _text_part(16, layers=1)
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        vae = _vae()
        _spread(text_encoder)
    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def make_sdxl(folder: Path, prediction_type: str = "epsilon", zeros: bool = True, seed: int = 2) -> Path:
    """Write a random SDXL pipeline that draws 32 px images; `zeros` is what it takes for no text."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, text_encoder = _text_part(16, layers=2)
        tokenizer_2, text_encoder_2 = _text_part(24, layers=3, projection=20)
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=16 + 24,
            attention_head_dim=2,
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 20,
        )
        vae = _vae()
        _spread(text_encoder)
        _spread(text_encoder_2)
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, prediction_type=prediction_type, steps_offset=1),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def tiny_janus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random multimodal backbone."""
    from tests.janus import make_janus

    return make_janus(tmp_path_factory.mktemp("backbones") / "tiny-janus")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random backbone that predicts v."""
    return make_backbone(tmp_path_factory.mktemp("backbones") / "tiny", "v_prediction")


@pytest.fixture(scope="session")
def tiny_backbone_epsilon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random backbone, which predicts the noise."""
    return make_backbone(tmp_path_factory.mktemp("backbones") / "tiny-epsilon", "epsilon", seed=1)


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SDXL that predicts the noise and takes zeros for no text, as SDXL base does."""
    return make_sdxl(tmp_path_factory.mktemp("backbones") / "tiny-sdxl")


@pytest.fixture(scope="session")
def tiny_sdxl_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SDXL that predicts v and encodes the empty text."""
    return make_sdxl(
        tmp_path_factory.mktemp("backbones") / "tiny-sdxl-v", "v_prediction", zeros=False, seed=3
    )


@pytest.fixture
def make_project(tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a project folder: this repository's code, pipeline and params, and the tiny backbone.

    make_project("name", {"images.drawing.steps": 2}) returns its path; nothing of data/ is in it.
    """
    from ruamel.yaml import YAML

    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    repository = Path(__file__).parents[1]

    def make(name: str, overrides: dict[str, object]) -> Path:
        root = tmp_path / name
        root.mkdir()
        for code in ("selma", "stages"):
            shutil.copytree(
                repository / code, root / code, ignore=shutil.ignore_patterns("__pycache__", ".tmp-*")
            )
        shutil.copy(repository / "dvc.yaml", root)
        yaml = YAML()
        params = yaml.load(repository / "params.yaml")
        for section in (params["images"]["drawing"], params["expert"], params["evaluate"]["drawing"]):
            section["resolution"] = 32  # what the tiny backbones draw
        for dotted, value in overrides.items():
            *sections, key = dotted.split(".")
            section = params
            for part in sections:
                section = section[part]
            section[key] = value
        yaml.dump(params, root / "params.yaml")
        for section in ("images", "expert"):
            folder = root / "models/backbones" / params[section]["backbone"]
            if not folder.exists():
                shutil.copytree(tiny_backbone, folder)
        judge = root / "models/judges/oracle"
        judge.mkdir(parents=True)
        (judge / "judge.json").write_text('{"kind": "oracle"}')
        return root

    return make


@pytest.fixture(scope="module")
def browser():
    """A Chromium for tests marked `needs_browser` (tests/browsing.py), with a context of its own for each window."""
    from playwright.sync_api import sync_playwright

    from tests.browsing import CHROMIUM, FLAGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def run_score(tmp_path, monkeypatch, capsys):
    """Run `selma.score` in a folder; its JSON, or (2, the line on stderr)."""
    from selma import score

    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> object:
        monkeypatch.setattr(sys, "argv", ["score", *map(str, words)])
        try:
            score.main()
        except SystemExit as error:
            said = capsys.readouterr()
            assert said.out == ""
            return error.code, said.err.strip().splitlines()[-1]
        said = capsys.readouterr()
        call.warnings = said.err
        return json.loads(said.out)

    return call
