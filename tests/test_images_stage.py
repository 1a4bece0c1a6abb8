from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selma.ground.errors import UserError
from selma.ground.files import read_jsonl, sha256_file, write_jsonl
from selma.ground.pairs import image_seed, prompt_id, read_image, read_pairs, write_image
from selma.images import folder
from stages import images

PROMPTS = [
    f"a {color} {shape}" for color in ("red", "blue", "green") for shape in ("circle", "square", "star")
]
SETTINGS = {"images.drawing.steps": 2, "images.drawing.batch": 4}

# Runs the stage and dies the way the out-of-memory killer kills, in the middle of writing one image.
KILLED = """
import os, signal
from selma.images import folder
from stages import images

write, count = folder.write_image, 0
def write_image(path, image):
    global count
    count += 1
    if count == 6:
        path.with_name(f".tmp-{os.getpid()}-{path.name}").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, image)
folder.write_image = write_image
os.environ["DVC_STAGE"] = "images@count"
images.main("count")
"""


@pytest.fixture
def project(make_project):
    def make(name: str) -> Path:
        root = make_project(name, SETTINGS)
        rows = [{"id": prompt_id("count", text), "text": text} for text in PROMPTS]
        write_jsonl(root / "data/filtered/count/prompts.jsonl", rows)
        return root

    return make


def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_STAGE", "images@count")
    images.main("count")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        (
            "images.drawing.guidance",
            1e300,
            "the image of 'a red circle' is not finite (guidance 1e+300, float32)",
        ),
        ("images.drawing.steps", 1001, "1001 steps are more than the 1000"),
        (
            "images.drawing.steps",
            10**12,
            "images.drawing.steps is 1000000000000; it must be less than or equal to",
        ),
        (
            "images.drawing.batch",
            10**12,
            "images.drawing.batch is 1000000000000; it must be less than or equal to",
        ),
        ("images.drawing.resolution", 10**12, "it must be less than or equal to 16383"),
        ("evaluate.images_per_prompt", 10**12, "it must be less than or equal to 1000"),
    ],
)
def test_what_cannot_be_drawn_leaves_no_images(make_project, monkeypatch, key, value, named):
    root = make_project("project", {**SETTINGS, key: value})
    rows = [{"id": prompt_id("count", text), "text": text} for text in PROMPTS]
    write_jsonl(root / "data/filtered/count/prompts.jsonl", rows)
    with pytest.raises(UserError) as caught:
        run(root, monkeypatch)
    assert named in str(caught.value)
    assert not (root / "data/images").exists() and not list(root.rglob("*.webp"))


def outs(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (root / "data/images/count").iterdir()}


def test_one_image_per_prompt_with_its_seed(project, monkeypatch):
    root = project("project")
    run(root, monkeypatch)
    pairs = read_pairs(root / "data/images/count")
    assert [pair.text for pair in pairs] == PROMPTS
    for pair in pairs:
        assert pair.file.name == f"{pair.id}.webp"
        assert pair.seed == image_seed(42, pair.id, 0)
        assert read_image(pair.file).size == (32, 32)
    assert len({sha256_file(pair.file) for pair in pairs}) == len(PROMPTS)
    assert not list(root.glob(".work/*/*"))


def test_a_killed_stage_goes_on_and_ends_with_the_same_outs(project, monkeypatch):
    whole, killed = project("whole"), project("killed")
    run(whole, monkeypatch)
    dead = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=killed, env={**os.environ, "PYTHONPATH": str(killed)}
    )
    assert dead.returncode == -signal.SIGKILL
    assert not (killed / "data/images").exists()
    there = len(list(killed.glob(".work/*/*/images/count-*.webp")))
    assert 0 < there < len(PROMPTS)
    written = []
    write = write_image
    monkeypatch.setattr(
        folder, "write_image", lambda path, image: (written.append(path.name), write(path, image))
    )
    run(killed, monkeypatch)
    drawn = [name for name in written if name.startswith("count-")]
    assert len(drawn) == len(PROMPTS) - there  # not from the start
    assert outs(killed) == outs(whole)


def shard(root: Path, part: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.images", "count", "--shard", part]
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_shards_are_found_done_and_make_the_same_outs(project, monkeypatch):
    whole, shards = project("whole"), project("shards")
    run(whole, monkeypatch)
    for part in ("1/2", "2/2"):
        done = shard(shards, part)
        assert done.returncode == 0, done.stderr
        assert not (shards / "data/images").exists(), "a part of the images is not the out"
    assert len(list(shards.glob(".work/images@count/*/images/count-*.webp"))) == len(PROMPTS)
    monkeypatch.setattr(
        folder, "write_image", lambda path, image: pytest.fail(f"{path.name} is drawn already")
    )
    run(shards, monkeypatch)
    assert outs(shards) == outs(whole)
    assert not list(shards.glob(".work/images@*/*")), "the shards' folder is removed with the work"


def test_a_shard_that_runs_twice_at_once_harms_nothing(project, monkeypatch):
    whole, shards = project("whole"), project("shards")
    run(whole, monkeypatch)
    with ThreadPoolExecutor() as pool:
        for done in pool.map(lambda part: shard(shards, part), ["1/2", "1/2", "1/3"]):
            assert done.returncode == 0, done.stderr
    assert not list(shards.glob(".work/images@*/*/images/.tmp-*"))
    run(shards, monkeypatch)
    assert outs(shards) == outs(whole)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "", "-1/2", "1/2/3"])
def test_a_shard_that_cannot_be_is_one_line(project, part):
    done = shard(project("project"), part)
    assert done.returncode == 2
    assert done.stderr == f"error: --shard: {part!r}; it must be I/N with 1 <= I <= N, e.g. 2/8\n"


def test_an_option_that_is_none_is_the_usage(project):
    command = [sys.executable, "-m", "stages.images", "count", "--shards", "1/2"]
    done = subprocess.run(command, cwd=project("project"), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "usage: python -m stages.images SKILL [--shard SHARD]\n"


def test_prompts_that_the_text_encoder_cuts_are_one_line(project):
    """This backbone's tokens are letters; CLIP's first and last token count, too."""
    root = project("project")
    texts = [*PROMPTS, "a" * 76, "b" * 75, "c" * 300]
    rows = [{"id": prompt_id("count", text), "text": text} for text in texts]
    write_jsonl(root / "data/filtered/count/prompts.jsonl", rows)
    command = [sys.executable, "-m", "stages.images", "count"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == (
        "warning: 2 prompts are longer than the text encoder's 77 tokens; what is beyond is not read "
        f"(first: {prompt_id('count', 'a' * 76)})\n"
    )


def test_datasets_opens_it_as_an_imagefolder(project, monkeypatch, tmp_path):
    import datasets

    """Also beside prompts that were held out; as `dev.jsonl` they would be a split of their own."""
    root = project("project")
    held_out = [{"id": "count-a", "text": "nobody drew this"}]
    write_jsonl(root / "data/filtered/count/dev.jsonl", held_out)
    run(root, monkeypatch)
    assert read_jsonl(root / "data/images/count/held_out.jsonl") == held_out
    data = datasets.load_dataset(
        "imagefolder",
        data_dir=str(root / "data/images/count"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert sorted(data["text"]) == sorted(PROMPTS)
    assert {"image", "text", "id", "seed"} <= set(data.column_names)
    assert data[0]["image"].size == (32, 32)


def test_no_prompts_and_no_backbone_are_one_line(project, monkeypatch):
    root = project("project")
    write_jsonl(root / "data/filtered/count/prompts.jsonl", [])
    with pytest.raises(UserError, match="count"):
        run(root, monkeypatch)
    root = project("bare")
    (root / "models/backbones/shapes/model_index.json").unlink()
    with pytest.raises(UserError, match="models/backbones/shapes"):
        run(root, monkeypatch)
    assert not (root / "data/images").exists()
