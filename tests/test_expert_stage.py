from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selma.backbones.loading import fingerprint, load_pipeline
from selma.experts import examples
from selma.ground.errors import UserError
from selma.ground.files import read_json, write_json, write_jsonl
from selma.ground.pairs import read_image, write_image
from selma.lora.files import load_lora
from selma.runtime import tracking, work
from stages import expert, merge, pool

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


def test_a_stage_that_ran_out_of_memory_goes_on_in_smaller_parts(make_project, monkeypatch):
    """No setting of speed is in the key of the work folder."""
    root = make_project("project", SETTINGS)
    add_images(root, "count")
    dead = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert dead.returncode == -signal.SIGKILL
    params = (root / "params.yaml").read_text()
    assert "accumulate: 1 " in params and "gradient_checkpointing: false" in params
    params = params.replace("accumulate: 1 ", "accumulate: 4 ")
    (root / "params.yaml").write_text(params.replace("checkpointing: false", "checkpointing: true"))
    assert run(root, monkeypatch) == list(range(6, 13))  # not from the start


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
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_STAGE", "pool")
    pool.main()
    run(root, monkeypatch, "single")
    card = load_lora(root / "models/checkpoints/single/step-000005").provenance
    assert card["images"] == 6 * len(skills)


def test_an_expert_on_some_skills_reads_their_images_and_says_so(make_project, monkeypatch):
    three = {"data": "data/images", "objective": "denoising", "skills": ["tags", "objects", "count"]}
    root = make_project("project", {**SETTINGS, "expert.steps": 5, "experts.three": three})
    skills = ["objects", "paragraph", "tags", "count", "counterfactual"]
    for skill in skills:
        add_images(root, skill)
    write_json(root / "data/images/skills.json", skills)
    read = []
    see = lambda file: read.append(file.parent.name) or read_image(file)  # noqa: E731
    monkeypatch.setattr(examples, "read_image", see)
    run(root, monkeypatch, "three")
    assert read == ["objects"] * 6 + ["tags"] * 6 + ["count"] * 6
    card = load_lora(root / "models/checkpoints/three/step-000005").provenance
    assert card["images"] == 18 and card["skills"] == three["skills"] and card["data"] == "data/images"
    write_json(root / "data/images/skills.json", skills[:2])
    with pytest.raises(
        UserError, match=r"data/images/skills\.json: does not name tags; it names objects, para"
    ):
        run(root, monkeypatch, "three")
    run(root, monkeypatch, "count")
    assert "skills" not in load_lora(root / "models/checkpoints/count/step-000005").provenance


def first_a(root: Path, name: str) -> dict[str, torch.Tensor]:
    factors = load_lora(root / "models/checkpoints" / name / "step-000005").factors
    return {module: a for module, (a, _) in factors.items()}


def test_experts_start_from_one_a_or_each_from_its_own(make_project, monkeypatch):
    """At a learning rate that moves nothing, what is trained is what it started from."""
    still, names = {**SETTINGS, "expert.learning_rate": 1e-12, "expert.steps": 5}, ["count", "tags"]
    found = {}
    for title, init, seed in (
        ("shared", "shared", 42),
        ("own", "own", 42),
        ("again", "own", 42),
        ("43", "own", 43),
    ):
        root = make_project(title, {**still, "expert.init": init, "seed": seed})
        for name in names:
            add_images(root, name)
            run(root, monkeypatch, name)
        found[title] = [first_a(root, name) for name in names]
    for module, a in found["shared"][0].items():
        torch.testing.assert_close(a, found["shared"][1][module], atol=1e-6, rtol=0)
        one, other = (own[module] for own in found["own"])
        assert (one - other).abs().max() > 0.1 and (one - a).abs().max() > 0.1
        assert torch.equal(one, found["again"][0][module])
        assert (one - found["43"][0][module]).abs().max() > 0.1


def test_flips_train_another_expert_and_a_killed_run_goes_on_with_them(make_project, monkeypatch):
    roots = {}
    for title, flip in (("plain", False), ("flipped", True), ("killed", True)):
        roots[title] = make_project(title, {**SETTINGS, "expert.flip": flip})
        add_images(roots[title], "count")
    dead = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=roots["killed"],
        env={**os.environ, "PYTHONPATH": str(roots["killed"])},
    )
    assert dead.returncode == -signal.SIGKILL
    for root in roots.values():
        run(root, monkeypatch)
    assert outs(roots["killed"]) == outs(roots["flipped"])
    plain, flipped = (outs(roots[title]) for title in ("plain", "flipped"))
    assert plain.keys() == flipped.keys() and plain != flipped


@pytest.mark.parametrize("operator", ["factor_mean", "delta_mean"])
def test_convolutions_are_trained_merged_and_opened(make_project, monkeypatch, operator):
    """../shared/cases/params/conv_targets.yaml: trained and selected, and then the merge ended in a traceback."""
    names, targets = ["count", "tags"], ["to_q", "proj_in", "conv1"]
    merges = {"merged": {"operator": operator, "experts": names}}
    root = make_project(
        "project", {**SETTINGS, "expert.targets": targets, "expert.steps": 5, "merges": merges}
    )
    for name in names:
        add_images(root, name)
        run(root, monkeypatch, name)
        (root / "models/experts").mkdir(exist_ok=True)
        (root / "models/checkpoints" / name / "step-000005").rename(root / "models/experts" / name)
    # what a killed run left: half a file, which is not published
    (root / "data/benchmarks/shapes").mkdir(parents=True)  # for operators that ask for a dev score
    monkeypatch.setenv("DVC_STAGE", "merge@merged")
    left = root / ".work/merge@merged" / work.stage_key("merge@merged", root) / "merged"
    left.mkdir(parents=True)
    (left / ".tmp-1-pytorch_lora_weights.safetensors").write_bytes(b"half")
    merge.main("merged")
    folder = root / "models/merges/merged"
    assert sorted(file.name for file in folder.iterdir()) == ["lora.json", "pytorch_lora_weights.safetensors"]
    merged, metrics = load_lora(folder), read_json(root / "metrics/merge/merged.json")
    assert {a.ndim for a, _ in merged.factors.values()} == {2, 4}
    dense = torch.cat([merged.delta(module).flatten() for module in merged.factors])
    assert metrics["norm"]["merged"] == pytest.approx(float(dense.norm()), abs=1e-3)
    backbone = root / "models/backbones/shapes"
    opened, base = load_pipeline(backbone, lora=folder).unet, load_pipeline(backbone).unet
    for module in merged.factors:
        weight = base.get_submodule(module).weight + merged.delta(module)
        torch.testing.assert_close(opened.get_submodule(module).weight, weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"expert.targets": ["to_q", "norm1"]}, "expert.targets: 'norm1' names"),
        ({"expert.targets": ["to_qq"]}, "expert.targets: 'to_qq' is not a layer"),
        ({"expert.rank": 10**6}, "expert.rank"),
        (
            {
                "experts.count": {"data": "data/images/count", "objective": "denoising", "rank": 10**6},
                "merges.merged.experts": ["tags"],
            },
            "experts.count.rank: 1000000",
        ),
        ({"runtime.dtype": "float16"}, "float16 gradients underflow"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_encoded(
    make_project, monkeypatch, settings, named
):
    root = make_project("project", {**SETTINGS, **settings})
    add_images(root, "count")
    monkeypatch.setattr(examples, "encode", None)
    monkeypatch.setattr(os, "sysconf", lambda name: 2**15)  # a gigabyte
    with pytest.raises(UserError, match=named):
        run(root, monkeypatch)


def test_a_run_that_diverges_names_its_checkpoint_and_leaves_nothing(make_project, monkeypatch):
    root = make_project("project", {**SETTINGS, "expert.learning_rate": 1e300, "expert.steps": 5})
    add_images(root, "count")
    with pytest.raises(UserError, match=r"diverged|models/checkpoints/count/step-") as caught:
        run(root, monkeypatch)
    assert ".work" not in str(caught.value)
    assert not (root / "models/checkpoints").exists() and not list(root.rglob("*.csv"))


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
    (root / "data/benchmarks/shapes").mkdir(parents=True)  # for operators that ask for a dev score
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


def test_a_row_of_its_own_rank_is_trained_merged_and_selected_as_such(make_project, monkeypatch):
    own = {
        "data": "data/images/tags",
        "objective": "denoising",
        "rank": 3,
        "alpha": 1.5,
        "steps": 6,
        "batch": 2,
    }
    merges = {"merged": {"operator": "delta_mean", "experts": ["count", "tags"]}}
    root = make_project("project", {**SETTINGS, "expert.steps": 5, "experts.tags": own, "merges": merges})
    for name, last in (("count", "step-000005"), ("tags", "step-000006")):
        add_images(root, name)
        run(root, monkeypatch, name)
        (root / "models/experts").mkdir(exist_ok=True)
        (root / "models/checkpoints" / name / last).rename(root / "models/experts" / name)
    count, tags = (load_lora(root / "models/experts" / name) for name in ("count", "tags"))
    assert (count.rank, count.scaling, tags.rank, tags.scaling) == (2, 2.0, 3, 0.5)
    (root / "data/benchmarks/shapes").mkdir(parents=True)
    monkeypatch.setenv("DVC_STAGE", "merge@merged")
    merge.main("merged")
    merged = load_lora(root / "models/merges/merged")
    assert merged.rank == 5
    for module in merged.factors:
        expected = (count.delta(module) + tags.delta(module)) / 2
        torch.testing.assert_close(merged.delta(module), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", ["tiny_backbone", "tiny_sdxl"])
def test_samples_show_each_checkpoint_and_change_no_out(make_project, monkeypatch, backbone, request):
    shown: dict[str, list[tuple[str, Image.Image]]] = {}
    roots = {}
    for title, own in (("plain", {}), ("shown", {"samples": 3}), ("averaged", {"samples": 3, "ema": 0.9})):
        roots[title] = make_project(title, {**SETTINGS, **{f"expert.{key}": own[key] for key in own}})
        shutil.rmtree(roots[title] / "models/backbones/shapes")
        shutil.copytree(request.getfixturevalue(backbone), roots[title] / "models/backbones/shapes")
        add_images(roots[title], "count")
        found = shown[title] = []
        monkeypatch.setattr(
            tracking, "log_image", lambda file, name, found=found: found.append((name, read_image(file)))
        )
        run(roots[title], monkeypatch)
    assert outs(roots["shown"]) == outs(roots["plain"])
    assert not shown["plain"]
    names = [f"samples-{name.removeprefix('step-')}.png" for name in CHECKPOINTS]
    assert [name for name, _ in shown["shown"]] == names
    sheets = [sheet for _, sheet in shown["shown"]]
    assert all(sheet.size == (3 * 32, 32) for sheet in sheets)
    assert len({sheet.tobytes() for sheet in sheets}) == 3, "the adapter as it is, on the same noise"
    assert shown["averaged"][-1][1].tobytes() != sheets[-1].tobytes(), (
        "the average, as the checkpoint holds it"
    )
    assert not list(roots["shown"].glob(".work/*/*"))


def test_every_option_at_once_resumes_with_the_same_outs(make_project, monkeypatch):
    row = {"data": "data/images/count", "objective": "denoising", "rank": 3, "alpha": 2.0, "rslora": True}
    row |= {"schedule": "cosine", "warmup": 4, "min_snr": 5.0, "ema": 0.9, "learning_rate": 3e-3}
    own = {**SETTINGS, "experts.count": row, "merges.merged.experts": ["tags"]}
    roots = {title: make_project(title, own) for title in ("whole", "killed")}
    for root in roots.values():
        add_images(root, "count")
    dead = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=roots["killed"],
        env={**os.environ, "PYTHONPATH": str(roots["killed"])},
    )
    assert dead.returncode == -signal.SIGKILL
    run(roots["whole"], monkeypatch)
    assert run(roots["killed"], monkeypatch) == list(range(6, 13))
    assert outs(roots["killed"]) == outs(roots["whole"])
    lora = load_lora(roots["whole"] / "models/checkpoints/count/step-000012")
    assert lora.rank == 3 and lora.scaling == pytest.approx(2.0 / 3**0.5)
    made = work.stage_key("expert@count", roots["whole"])
    params = roots["whole"] / "params.yaml"
    params.write_text(params.read_text().replace("samples: 0 ", "samples: 4 "))
    assert work.stage_key("expert@count", roots["whole"]) == made, "samples run nothing again"
