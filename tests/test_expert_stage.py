from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selma.backbones.loading import fingerprint
from selma.ground.errors import UserError
from selma.ground.files import read_json, write_jsonl
from selma.ground.pairs import write_image
from selma.lora.files import load_lora
from selma.runtime import tracking
from stages import expert, merge

SETTINGS = {
    "expert.steps": 12,
    "expert.checkpoint_every": 5,
    "expert.batch": 4,
    "expert.rank": 2,
    "expert.alpha": 4.0,
}
CHECKPOINTS = ["step-000005", "step-000010", "step-000012"]

# Runs the stage and dies the way the out-of-memory killer kills, after the first checkpoint.
KILLED = """
import os, signal
from selma.runtime import tracking
from stages import expert

def log_metric(name, value, step):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
tracking.log_metric = log_metric
os.environ["DVC_STAGE"] = "expert@count"
expert.main("count")
"""


def add_images(root: Path, skill: str, n: int = 6) -> None:
    """Fill data/images/<skill> with noise pictures."""
    noise = np.random.default_rng(len(skill)).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    rows = [
        {"file_name": f"{skill}-{i}.png", "text": f"{skill} {i}", "id": f"{skill}-{i}", "seed": i}
        for i in range(n)
    ]
    for row, image in zip(rows, noise, strict=True):
        write_image(root / "data/images" / skill / row["file_name"], Image.fromarray(image))
    write_jsonl(root / "data/images" / skill / "metadata.jsonl", rows)


def run(root: Path, monkeypatch: pytest.MonkeyPatch, name: str = "count") -> list[int]:
    """Run the stage; the steps whose loss it logged."""
    steps: list[int] = []
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_STAGE", f"expert@{name}")
    monkeypatch.setattr(tracking, "log_metric", lambda metric, value, step: steps.append(step))
    expert.main(name)
    return steps


def outs(root: Path) -> dict[str, bytes]:
    files = [*(root / "models/checkpoints").rglob("*"), *(root / "metrics").rglob("*")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.is_file()}


def test_a_killed_stage_goes_on_and_ends_with_the_same_outs(make_project, monkeypatch):
    whole, killed = make_project("whole", SETTINGS), make_project("killed", SETTINGS)
    for root in (whole, killed):
        add_images(root, "count")
    run(whole, monkeypatch)
    dead = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=killed, env={**os.environ, "PYTHONPATH": str(killed)}
    )
    assert dead.returncode == -signal.SIGKILL
    assert not (killed / "models/checkpoints").exists()
    assert run(killed, monkeypatch) == list(range(6, 13))  # not from the start
    assert outs(killed) == outs(whole)
    assert len(outs(killed)) == 2 * len(CHECKPOINTS) + 1
    assert not list(killed.glob(".work/*/*"))


def test_checkpoints_say_what_they_are_and_the_curve_is_whole(make_project, monkeypatch):
    root = make_project("project", SETTINGS)
    add_images(root, "count")
    run(root, monkeypatch)
    for name in CHECKPOINTS:
        card = load_lora(root / "models/checkpoints/count" / name).provenance
        assert (card["name"], card["steps"], card["images"]) == ("count", int(name[5:]), 6)
        assert card["backbone"] == fingerprint(root / "models/backbones/shapes")
    with open(root / "metrics/loss/count.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert all(0 < float(row["loss"]) < 100 for row in rows)


def test_one_lora_on_everything_reads_the_skills_in_params_only(make_project, monkeypatch):
    root = make_project("project", {**SETTINGS, "expert.steps": 5})
    skills = ["objects", "paragraph", "tags", "count", "counterfactual"]
    for skill in [*skills, "forgotten"]:
        add_images(root, skill)
    run(root, monkeypatch, "single")
    card = load_lora(root / "models/checkpoints/single/step-000005").provenance
    assert card["images"] == 6 * len(skills)


def test_experts_of_one_seed_start_from_one_a_and_merge(make_project, monkeypatch):
    names = ["count", "tags"]
    root = make_project(
        "project",
        {**SETTINGS, "expert.learning_rate": 1e-12, "expert.steps": 5, "merges.merged.experts": names},
    )
    for name in names:
        add_images(root, name)
        run(root, monkeypatch, name)
        (root / "models/experts").mkdir(exist_ok=True)
        (root / "models/checkpoints" / name / "step-000005").rename(root / "models/experts" / name)
    one, other = (load_lora(root / "models/experts" / name) for name in names)
    for module, (a, _) in one.factors.items():
        np.testing.assert_allclose(a, other.factors[module][0], atol=1e-6)
    monkeypatch.setenv("DVC_STAGE", "merge@merged")
    merge.main("merged")
    merged = load_lora(root / "models/merges/merged")
    assert merged.provenance["experts"] == names
    metrics = read_json(root / "metrics/merge/merged.json")
    assert (metrics["operator"], metrics["rank"], list(metrics["cosine"])) == (
        "factor_mean",
        2,
        ["count|tags"],
    )
    assert list(metrics["norm"]) == [*names, "merged"]


def test_bad_input_is_one_line_and_leaves_nothing(make_project, monkeypatch):
    root = make_project("project", SETTINGS)
    with pytest.raises(UserError, match="nobody"):
        run(root, monkeypatch, "nobody")
    with pytest.raises(UserError, match="data/images/count"):
        run(root, monkeypatch)
    add_images(root, "count")
    image = root / "data/images/count/count-3.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError, match=r"count-3\.png"):
        run(root, monkeypatch)
    assert not (root / "models/checkpoints").exists()
    assert not (root / "metrics").exists()
