"""Users' paths from end to end, as far as they go without a GPU, a hub and a key.

The student's path, the README's commands on the embedded world, is tests/test_student.py's. Here a researcher with
SDXL writes a skill, has an LLM on vLLM and Qwen-VL as the judge, both servers on loopback, and brings data: a benchmark
as CSV, an imagefolder, a LoRA of another tool. The SDXL is a tiny random one, so its scores say nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clones import Clone, copy_tree
from tests.conftest import make_sdxl
from tests.llm_server import Answer, Server, serve
from tests.test_judge_endpoint import completion

pytestmark = pytest.mark.e2e
DRAWING = {"scheduler": "ddim", "steps": 2, "guidance": 5.0, "batch": 4, "resolution": 32}
TABLE = """prompt,question,answer,category,parents
a cat on a sofa,Is there a cat?,yes,object,
a cat on a sofa,Is the cat on a sofa?,yes,relation,1
"two cats, asleep",Are there two cats?,yes,count,
"""


def own_images(folder: Path) -> None:
    """An imagefolder as people have them: a photo that lies on its side, transparency, 16 bits, a palette."""
    folder.mkdir()
    side = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    photo = Image.fromarray(side)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    photo.save(folder / "photo.jpg", exif=exif)
    photo.convert("RGBA").save(folder / "clear.png")
    Image.fromarray((np.arange(40 * 40, dtype=np.uint16) * 40).reshape(40, 40)).save(folder / "deep.png")
    photo.convert("P").save(folder / "palette.png")
    names = ("photo.jpg", "clear.png", "deep.png", "palette.png")
    rows = [json.dumps({"file_name": name, "text": f"a grey cat, {name[:-4]}"}) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def kohya_lora(file: Path, backbone: Path) -> None:
    """A LoRA as kohya's trainer names one, of a tiny SDXL's attention."""
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    tensors, generator = {}, torch.Generator().manual_seed(1)
    for name, layer in UNet2DConditionModel.from_pretrained(backbone / "unet").named_modules():
        if name.rpartition(".")[2] in ("to_q", "to_k", "to_v") or name.endswith("to_out.0"):
            key = "lora_unet_" + name.replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = torch.randn(4, layer.in_features, generator=generator)
            tensors[f"{key}.lora_up.weight"] = torch.randn(layer.out_features, 4, generator=generator)
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(tensors, file)


@pytest.fixture(scope="module")
def servers():
    """vLLM's two: an LLM that writes prompts, and a model that sees, which says yes with probability .75."""
    seen = {"yes": 0.75, "no": 0.25}
    with serve() as llm, serve(lambda number, body: Answer(completion("yes", seen))) as judge:
        yield llm, judge


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, servers: tuple[Server, Server]) -> Clone:
    """A branch of the profile sdxl with a skill and data of one's own, after one `dvc repro`."""
    own, folder = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("clone")
    make_sdxl(own / "sdxl")
    kohya_lora(own / "styled.safetensors", own / "sdxl")
    own_images(own / "cats")
    (own / "mine.csv").write_text(TABLE)
    llm, judge = servers

    copy_tree(folder)
    clone = Clone(folder)
    clone.own = own
    clone.run("git", "init", "--quiet", "--initial-branch=main")
    clone.run("git", "config", "user.email", "test@example.org")
    clone.run("git", "config", "user.name", "test")
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "as it is")
    clone.run("python", "-m", "selma.profile", "sdxl")
    seeds = ("a cat asleep on a chair", "two cats in the snow", "a kitten beside a red ball")
    told = ["--description", "One or more cats doing something.", "--rule", "Say where the cat is."]
    clone.run("python", "-m", "selma.skill", "cats", *told, *(w for seed in seeds for w in ("--seed", seed)))

    endpoint = {"model": "Qwen/Qwen2.5-VL-7B-Instruct", "base_url": judge.url}
    weights = {
        "base": "models/backbones/mine",
        "cats": "models/experts/cats",
        "pictures": "models/experts/pictures",
        "styled": "models/experts/styled",
        "merged": "models/merges/merged",
    }
    clone.change(backbones={}, benchmarks={}, judges={})
    clone.change(
        skills=["cats"],
        experts={
            "cats": {"data": "data/images/cats", "objective": "denoising"},
            "pictures": {"data": str(own / "cats"), "objective": "denoising"},
        },
        merges={"merged": {"operator": "delta_mean", "experts": ["cats", "pictures", "styled"]}},
        models={name: {"weights": place, "guidance": "cfg"} for name, place in weights.items()},
        compare=[["merged", "base"], ["styled", "base"]],
        own={
            "backbones": {"mine": {"path": str(own / "sdxl")}},
            "benchmarks": {"mine": {"source": "csv", "path": str(own / "mine.csv")}},
            "loras": {"styled": {"path": str(own / "styled.safetensors")}},
        },
        judges={"qwen_vl": {"kind": "endpoint", "endpoint": endpoint}},
        judge={"name": "qwen_vl", "kind": "endpoint"},
        preferences=[],
        llm={"base_url": llm.url, "model": "Qwen/Qwen3-8B"},
        prompts={"candidates": 16, "per_request": 8},
        filter={"keep": 6, "dev": 2},
        images={"backbone": "mine", "drawing": DRAWING},
        expert={
            "backbone": "mine",
            "rank": 4,
            "alpha": 4,
            "batch": 2,
            "accumulate": 1,
            "steps": 2,
            "checkpoint_every": 1,
            "resolution": 32,
            "gradient_checkpointing": False,
        },
        evaluate={"benchmarks": ["mine"], "drawing": DRAWING, "bootstrap": 100},
        select={"policy": "last"},
        runtime={"dtype": "float32"},
    )
    clone.run("dvc", "repro")
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "my run")
    return clone


def test_the_whole_run_is_there_with_their_own_names(clone, servers):
    metrics = clone.metrics()
    assert (metrics["benchmark"], metrics["judge"], metrics["n_prompts"]) == ("mine", "qwen_vl", 2)
    assert list(metrics["models"]) == ["base", "cats", "pictures", "styled", "merged"]
    assert metrics["models"]["styled"]["mean"] == 1  # this judge says yes to everything
    page = (clone.folder / "data/report/index.html").read_text()
    for shown in ("Qwen/Qwen3-8B", "qwen_vl", "two cats, asleep", "Are there two cats?"):
        assert shown in page
    llm, judge = servers
    assert {request["body"]["model"] for request in llm.seen} == {"Qwen/Qwen3-8B"}
    assert len(judge.seen) == 5 * 3 * clone.params()["evaluate"]["images_per_prompt"]


def test_their_lora_and_images_changed_what_is_drawn(clone):
    drawn = {}
    for model in ("base", "pictures", "styled", "merged"):
        files = sorted((clone.folder / f"data/samples/{model}/mine").glob("*-0.*"))
        drawn[model] = [file.read_bytes() for file in files if file.suffix != ".jsonl"]
    assert all(len(files) == 2 for files in drawn.values())
    assert drawn["styled"] != drawn["base"] and drawn["merged"] != drawn["base"]


def test_an_edit_of_their_csv_is_seen_and_runs_what_depends_on_it_alone(clone, servers):
    file = clone.own / "mine.csv"
    file.write_text(TABLE + '"two cats, asleep",Are they asleep?,yes,attribute,1\n')
    assert "own_benchmark@mine" in clone.run("dvc", "status")
    before = len(servers[0].seen)
    printed = clone.run("dvc", "repro")
    ran = {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}
    assert {"own_benchmark@mine", "answer@merged-mine", "evaluate", "report"} <= ran
    assert not {name for name in ran if name.startswith(("images@", "expert@", "own_lora@"))}
    assert len(servers[0].seen) == before  # the LLM is asked for nothing again
    assert "Are they asleep?" in (clone.folder / "data/report/index.html").read_text()


def test_a_mistake_in_their_csv_is_one_line_with_its_place(clone):
    file = clone.own / "mine.csv"
    good = file.read_text()
    file.write_text(good + "a cat on a sofa,Is it red?,maybe,color,1\n")
    lines = clone.run("python", "-m", "stages.own_benchmark", "mine", code=2).strip().splitlines()
    assert len(lines) == 1 and "mine.csv" in lines[0] and "line 6" in lines[0] and "maybe" in lines[0]
    file.write_text(good)


def test_what_they_made_is_exported_and_drawn(clone):
    for name, code in (("merged", 0), ("nobody", 2)):
        clone.run("python", "-m", "selma.export", name, "--format", "diffusers", code=code)
    card = (clone.folder / "exports/sdxl-merged-diffusers/README.md").read_text()
    assert "styled, which other tools made" in card
    printed = clone.run(
        "python", "-m", "selma.draw", "two cats, asleep", "--models", "base,merged", "--images", "1"
    )
    assert "merged: 100% faithful by qwen_vl" in printed and "never saw" not in printed
