"""Which settings and rows fit a backbone's kind, diffusion or multimodal."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from selma.ground.errors import UserError
from selma.runtime.params import build_params
from selma.runtime.schema import load_yaml

MANY = {
    "own.backbones": {"janus": {"path": "own/janus"}},
    "images.backbone": "janus",
    "expert.backbone": "janus",
    "expert.targets": ["q_proj"],
    "images.drawing.scheduler": "tokens",
    "evaluate.drawing.scheduler": "tokens",
    "experts": {"r1": {"data": "data/images", "objective": "next_token"}},
    "merges": {},
    "models": {
        "base": {"weights": "models/backbones/janus", "guidance": "cfg"},
        "r1": {"weights": "models/experts/r1", "guidance": "cfg"},
    },
    "compare": [["r1", "base"]],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A multimodal model's folder, as far as params.yaml is checked against it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own/janus").mkdir(parents=True)
    (tmp_path / "own/janus/config.json").write_text('{"model_type": "janus"}')


def with_kind(**changes: object) -> object:
    plain = deepcopy(load_yaml(Path(__file__).parents[1] / "params.yaml"))
    for key, value in {**MANY, **{name.replace("__", "."): value for name, value in changes.items()}}.items():
        *sections, last = key.split(".")
        section = plain
        for part in sections:
            section = section[part]
        section[last] = value
    return build_params(plain, "params.yaml")


def test_the_embedded_one_is_known_by_its_name_before_it_is_pulled() -> None:
    named = {
        "own__backbones": {},
        "images__backbone": "shapes_mm",
        "expert__backbone": "shapes_mm",
        "models": {
            "base": {"weights": "models/backbones/shapes_mm", "guidance": "cfg"},
            "r1": {"weights": "models/experts/r1", "guidance": "cfg"},
        },
    }
    assert with_kind(**named).expert.backbone == "shapes_mm"
    with pytest.raises(
        UserError, match=r"images\.drawing\.scheduler is ddim; shapes_mm is a multimodal backbone"
    ):
        with_kind(**named, images__drawing__scheduler="ddim")


def test_a_multimodal_profile_is_allowed() -> None:
    assert with_kind().expert.backbone == "janus"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"images__drawing__scheduler": "ddim"},
            "images.drawing.scheduler is ddim; janus is a multimodal backbone",
        ),
        (
            {
                "expert__backbone": "shapes",
                "models": {
                    **MANY["models"],
                    "base": {"weights": "models/backbones/shapes", "guidance": "cfg"},
                },
                "experts": {"r1": {"data": "data/images", "objective": "denoising"}},
            },
            "evaluate.drawing.scheduler is tokens; shapes is a diffusion backbone, which draws by denoising",
        ),
        (
            {"experts": {"r1": {"data": "data/images", "objective": "denoising"}}},
            "experts.r1.objective is denoising, which trains diffusion backbones; .*allowed: next_token, token_dpo",
        ),
        (
            {"models": {**MANY["models"], "r1": {"weights": "models/experts/r1", "guidance": "syngen"}}},
            "models.r1.guidance is syngen, which needs a UNet's attention",
        ),
        (
            {"merges": {"m": {"operator": "regmean", "experts": ["r1"]}}},
            "merges.m.operator is regmean, which knows diffusion backbones alone",
        ),
        (
            {
                "policies": {
                    "nft": {
                        "algorithm": "nft",
                        "start": "models/backbones/janus",
                        "prompts": "data/questions",
                        "rewards": {"oracle": 1.0},
                        "images": 960,
                    }
                }
            },
            "policies.nft: is for diffusion backbones",
        ),
        (
            {"draws": {"d": {"weights": "models/backbones/shapes", "prompts": "data/questions"}}},
            r"images.drawing.scheduler is tokens; shapes \(draws.d\) is a diffusion backbone",
        ),
        (
            {
                "draws": {
                    "d": {
                        "weights": "models/backbones/janus",
                        "prompts": "data/questions",
                        "diversity": {"method": "features", "strength": 0.3},
                    }
                }
            },
            r"draws.d.diversity.method is features, which a multimodal backbone .* allowed: temperature, dropout",
        ),
    ],
)
def test_what_does_not_fit_the_backbones_kind_is_said_at_once(changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_kind(**changes)
