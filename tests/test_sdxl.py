"""Every class of backbone through the same stages: images, expert, select, merge, sample, answer, evaluate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from selma.backbones.parts import read_kind
from selma.ground.files import read_json, write_jsonl
from selma.ground.items import Item, Question, write_split
from selma.ground.pairs import read_image, read_pairs
from selma.lora.files import load_lora
from stages import answer, evaluate, expert, images, judge, merge, model, own_backbone, sample, select

SKILLS = ["count", "tags"]
QUESTION = Question("1", "Is there a circle?", ("yes", "no"), "yes", (), "shape")
SETTINGS = {
    "skills": SKILLS,
    "experts": {skill: {"data": f"data/images/{skill}", "objective": "denoising"} for skill in SKILLS},
    "models": {
        "base": {"weights": "models/backbones/tiny", "guidance": "cfg"},
        "merged": {"weights": "models/merges/merged", "guidance": "cfg"},
    },
    "compare": [["merged", "base"]],
    "images.backbone": "tiny",
    "images.drawing.steps": 2,
    "images.drawing.batch": 2,
    "expert.backbone": "tiny",
    "expert.rank": 2,
    "expert.alpha": 4.0,
    "expert.steps": 3,
    "expert.checkpoint_every": 3,
    "expert.batch": 2,
    "expert.learning_rate": 0.05,
    "select.policy": "last",
    "evaluate.images_per_prompt": 1,
    "evaluate.drawing.steps": 3,
    "evaluate.drawing.guidance": 4.0,
    "evaluate.drawing.batch": 2,
    "evaluate.bootstrap": 50,
}

# What anybody does with the merged file: diffusers alone, in a process of its own, nothing of selma imported.
DIFFUSERS = """
import sys
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

backbone, merged, prompt, seed, out = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(backbone, local_files_only=True)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
settings = {"num_inference_steps": 3, "guidance_scale": 4.0}
for name in ("base", "merged"):
    if name == "merged":
        pipe.load_lora_weights(merged)
    image = pipe(prompt, generator=torch.Generator().manual_seed(int(seed)), **settings).images[0]
    image.save(f"{out}/{name}.png")
assert "selma" not in sys.modules
"""


def run(monkeypatch: pytest.MonkeyPatch, stage: object, *arguments: str) -> None:
    name = stage.__name__.removeprefix("stages.")
    monkeypatch.setenv("DVC_STAGE", "@".join([name, "-".join(arguments)] if arguments else [name]))
    stage.main(*arguments)


@pytest.mark.parametrize("kind", ["tiny_backbone", "tiny_backbone_epsilon", "tiny_sdxl", "tiny_sdxl_v"])
def test_every_class_goes_through_every_stage(kind, make_project, monkeypatch, tmp_path, request):
    source = {"path": str(request.getfixturevalue(kind))}
    root = make_project("project", {**SETTINGS, "own.backbones": {"tiny": source}})
    monkeypatch.chdir(root)
    Path("data/preferences").mkdir(parents=True)  # git keeps it
    benchmark = Path("data/benchmarks/shapes")
    for split in ("dev", "test"):
        items = [Item(f"{s}-{split}", f"a {split} circle of {s}", s, "shapes", (QUESTION,)) for s in SKILLS]
        write_split(benchmark, split, items)
    for skill in SKILLS:
        rows = [{"id": f"{skill}-{i}", "text": f"{skill} number {i}"} for i in range(3)]
        write_jsonl(Path("data/filtered") / skill / "prompts.jsonl", rows)

    run(monkeypatch, own_backbone, "tiny")
    run(monkeypatch, judge, "oracle")
    for skill in SKILLS:
        run(monkeypatch, images, skill)
        run(monkeypatch, expert, skill)
        run(monkeypatch, select, skill)
    run(monkeypatch, merge, "merged")
    for row in ("base", "merged"):
        run(monkeypatch, model, row)
        run(monkeypatch, sample, row, "shapes")
        run(monkeypatch, answer, row, "shapes")
    run(monkeypatch, evaluate)

    assert read_json(root / "models/backbones/tiny/source.json")["source"] == "local"
    assert load_lora(root / "models/merges/merged").provenance["experts"] == SKILLS
    metrics = read_json(root / "metrics/eval.json")
    assert list(metrics["models"]) == ["base", "merged"] and list(metrics["gains"]) == ["merged over base"]
    shown = {name: pictures(root / "data/samples" / name / "shapes") for name in ("base", "merged")}
    assert all(np.abs(a - b).max() > 1 for a, b in zip(shown["base"], shown["merged"], strict=True))
    assert read_kind(root / "models/backbones/tiny") == (
        "StableDiffusionXLPipeline" if "sdxl" in kind else "StableDiffusionPipeline"
    )

    if kind not in ("tiny_backbone", "tiny_sdxl"):  # one of each class is enough for a process of its own
        return
    pair = read_pairs(root / "data/samples/merged/shapes")[0]
    arguments = [
        root / "models/backbones/tiny",
        root / "models/merges/merged",
        pair.text,
        str(pair.seed),
        tmp_path,
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", DIFFUSERS, *arguments], cwd=tmp_path, env=environment, check=True)
    for name in ("base", "merged"):
        theirs = np.asarray(read_image(tmp_path / f"{name}.png"), dtype=int)
        assert np.abs(theirs - shown[name][0]).max() <= 1


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(read_image(pair.file), dtype=int) for pair in read_pairs(folder)]
