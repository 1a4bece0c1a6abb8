"""Every operator through the merge stage, on tiny random SD and SDXL: merged, saved, opened and drawn with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from selma.backbones.loading import fingerprint, load_pipeline
from selma.ground.errors import UserError
from selma.ground.files import read_json, write_jsonl
from selma.ground.items import Item, write_split
from selma.images import sampler
from selma.lora.files import load_lora, save_lora
from selma.runtime import variants
from selma.runtime.params import Drawing, load_params
from stages import merge as stage
from tests.test_calibration import QUESTION, images
from tests.test_lora import random_lora

SKILLS = ["count", "tags"]
OPERATORS = variants.names("operators")
OPTIONS = {"searched": {"evaluations": 3}, "weighted": {"weights": {"count": 1.2, "tags": -0.3}}}
MERGES = {
    name: {
        "operator": name,
        "experts": None,
        **({"options": OPTIONS[name]} if name in OPTIONS else {}),
    }
    for name in OPERATORS
}
SETTINGS = {
    "skills": SKILLS,
    "experts": {skill: {"data": f"data/images/{skill}", "objective": "denoising"} for skill in SKILLS},
    "merges": MERGES,
    "models": {"base": {"weights": "models/backbones/tiny", "guidance": "cfg"}},
    "images.backbone": "tiny",
    "expert.backbone": "tiny",
    "own.backbones": {"tiny": {"path": "/tiny"}},
    "evaluate.drawing.steps": 2,
}


@pytest.fixture
def project(make_project, monkeypatch, request):
    """A project with two random experts, their images and a benchmark; `request.param` is the backbone."""
    backbone = request.getfixturevalue(getattr(request, "param", "tiny_backbone"))
    root = make_project("project", {**SETTINGS, "compare": [["base", "other"]], "models": {
        "base": {"weights": "models/backbones/tiny", "guidance": "cfg"},
        "other": {"weights": "models/experts/count", "guidance": "cfg"},
    }})  # fmt: skip
    monkeypatch.chdir(root)
    target = Path("models/backbones/tiny")
    if fingerprint(target) != fingerprint(backbone):
        import shutil

        shutil.rmtree(target)
        shutil.copytree(backbone, target)
    for split in ("dev", "test"):
        items = [Item(f"{s}-{split}", f"a {split} circle of {s}", s, "shapes", (QUESTION,)) for s in SKILLS]
        write_split(Path("data/benchmarks/shapes"), split, items)
    for i, skill in enumerate(SKILLS):
        folder = Path("data/images") / skill
        rows = [
            {"file_name": pair.file.name, "text": pair.text, "id": pair.id, "seed": pair.seed}
            for pair in images(folder, 3, (10 + 100 * i, 80, 90))
        ]
        write_jsonl(folder / "metadata.jsonl", rows)
        state, card = random_lora(target, rank=2, alpha=4.0, seed=i)
        save_lora(Path("models/experts") / skill, state, {**card, "name": skill})
    return root


def run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("DVC_STAGE", f"merge@{name}")
    stage.main(name)


@pytest.mark.parametrize("project", ["tiny_backbone", "tiny_sdxl"], indirect=True)
def test_every_operator_goes_through_the_stage_and_draws(project, monkeypatch):
    pictures = {}
    drawing = Drawing("ddim", 2, 2.0, 4, 32)
    for name in [None, *OPERATORS]:
        lora = None
        if name:
            run(monkeypatch, name)
            lora = Path("models/merges") / name
            card, metrics = load_lora(lora).provenance, read_json(Path(f"metrics/merge/{name}.json"))
            assert card["operator"] == metrics["operator"] == name and card["experts"] == SKILLS
            own = variants.constants("operators", name).get("OPTIONS", {})
            assert set(card.get("options", {})) == set(metrics.get("options", {})) == set(own)
            assert OPTIONS.get(name, {}).items() <= metrics.get("options", {}).items()
            assert metrics["rank"] == load_lora(lora).rank
        pipe = load_pipeline(Path("models/backbones/tiny"), lora=lora)
        ((_, image),) = sampler.draw(pipe, ["a red circle"], [1], drawing)
        pictures[name] = np.asarray(image, dtype=int)
    for name in OPERATORS:
        assert np.abs(pictures[name] - pictures[None]).max() > 1
    found = read_json(Path("metrics/merge/searched.json"))["found"]
    assert found["evaluations"] == len(found["trace"]) == 3 and set(found["weights"]) == set(SKILLS)
    assert 0 < read_json(Path("metrics/merge/ties.json"))["found"]["truncation"] < 1
    assert not list((project / ".work").rglob("merged"))


def test_a_merge_gives_the_same_bytes_again(project, monkeypatch):
    for name in ("dare", "regmean", "searched"):
        files = [
            Path(f"models/merges/{name}/pytorch_lora_weights.safetensors"),
            Path(f"metrics/merge/{name}.json"),
        ]
        run(monkeypatch, name)
        first = [file.read_bytes() for file in files]
        run(monkeypatch, name)
        assert [file.read_bytes() for file in files] == first


@pytest.mark.parametrize("operator", ["regmean", "ssr"])
@pytest.mark.parametrize("broken", ["gone", "empty"])
def test_calibration_without_images_is_one_line(project, monkeypatch, operator, broken):
    metadata = Path("data/images/tags/metadata.jsonl")
    metadata.unlink() if broken == "gone" else metadata.write_text("")
    with pytest.raises(UserError, match="data/images/tags") as error:
        run(monkeypatch, operator)
    assert "\n" not in str(error.value) and not Path(f"models/merges/{operator}").exists()
    run(monkeypatch, "factor_mean")  # needs no images


def test_a_merge_of_factors_imports_no_diffusers(project):
    script = (
        "import sys; from stages import merge; merge.main('factor_mean'); print('diffusers' in sys.modules)"
    )
    environment = {"DVC_STAGE": "merge@factor_mean", "PATH": "", "SELMA_TRACKING": "off"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "False"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"operator": "best"}, r"merges\.m\.operator is 'best'; it must be one of: dare"),
        ({"operator": "ties", "options": {"density": 2}}, r"merges\.m\.options: density is 2"),
        ({"operator": "weighted", "options": {"weights": {"count": float("nan"), "tags": 1}}}, r"count is nan"),
        ({"operator": "weighted", "options": {"weights": {"count": 1}}}, r"options: weights lacks tags"),
        (
            {"operator": "svd", "options": {"weights": {"count": 1, "tags": 1, "cat": 1}}},
            r"options: weights names 'cat'",
        ),
        ({"operator": "factor_mean", "options": {"scale": 1.3}}, r"factor_mean has no settings"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_is_one_line_when_params_are_read(make_project, row, says):
    merges = {"m": {"experts": None, **row}}
    two = {"base": SETTINGS["models"]["base"], "other": {"weights": "models/merges/m", "guidance": "cfg"}}
    root = make_project("p", {**SETTINGS, "merges": merges, "models": two, "compare": [["other", "base"]]})
    with pytest.raises(UserError, match=says) as error:
        load_params(root / "params.yaml")
    assert "\n" not in str(error.value)


def test_the_operator_in_the_docs_is_20_lines_and_merges_where_it_is_put(project):
    text = (Path(__file__).parents[1] / "docs/operators.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.count("\n") <= 20
    (project / "selma/variants/operators/median.py").write_text(code, encoding="utf-8")
    row = yaml.safe_load(re.search(r"^ +(median: \{.*)$", text, re.MULTILINE)[1])
    params = yaml.safe_load(Path("params.yaml").read_text())
    row["median"]["options"]["rank"] = 99  # cuts nothing off
    Path("params.yaml").write_text(yaml.safe_dump(params | {"merges": row}))
    environment = {**os.environ, "DVC_STAGE": "merge@median", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "stages.merge", "median"]
    subprocess.run(command, cwd=project, env=environment, check=True)
    merged = load_lora(Path("models/merges/median"))
    experts = [load_lora(Path("models/experts") / skill) for skill in SKILLS]
    assert merged.provenance["options"] == {"scale": 1.5, "rank": 99}
    for module in merged.factors:
        median = torch.stack([expert.delta(module) for expert in experts]).median(0).values
        torch.testing.assert_close(merged.delta(module), 1.5 * median, rtol=1e-4, atol=1e-4)


def test_the_docs_list_every_operator_and_setting():
    text = (Path(__file__).parents[1] / "docs/operators.md").read_text(encoding="utf-8")
    for name in OPERATORS:
        (line,) = re.findall(rf"^\| `{name}` .*$", text, re.MULTILINE)
        own = variants.constants("operators", name).get("OPTIONS", {})
        assert set(re.findall(r"`(\w+)`", line.split("|")[3])) == set(own)
