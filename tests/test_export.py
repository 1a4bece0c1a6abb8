"""What leaves the house: files that diffusers opens to the same images, and a card that claims what was measured."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open

from selma import export
from selma.backbones.loading import fingerprint
from selma.ground.errors import UserError
from selma.ground.files import read_json, sha256_file, write_json
from selma.lora import kohya
from selma.lora.files import WEIGHTS, load_lora, save_lora
from selma.runtime.schema import load_yaml

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["to_q", "proj_in", "conv1", "conv_shortcut", "time_emb_proj"]
ROOT = Path(__file__).parents[1]
SUMMARY = {
    "benchmark": "shapes",
    "judge": "oracle",
    "drawing": {"scheduler": "ddim", "steps": 12, "guidance": 1.35, "resolution": 64},
    "n_prompts": 150,
    "images_per_prompt": 2,
    "models": {
        name: {"mean": mean, "low": mean - 0.02, "high": mean + 0.02}
        for name, mean in (("base", 0.3787), ("count", 0.3947), ("merged", 0.417))
    },
    "gains": {"merged over base": {"mean": 0.0383, "low": 0.0186, "high": 0.0579}},
}


@pytest.fixture(scope="session")
def tiny_xl(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random SDXL with a UNet of SDXL's own blocks, two layers in each, of which kohya's names are made."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl)
    blocks = {
        "layers_per_block": 2,
        "block_out_channels": (8, 16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 3),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe.register_modules(unet=UNet2DConditionModel.from_config({**pipe.unet.config, **blocks}))
    folder = tmp_path_factory.mktemp("backbones") / "tiny-xl"
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def random_lora(backbone: Path, folder: Path, **about: Any) -> None:
    """A LoRA folder with random factors, alpha 6 at rank 4."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(backbone / "unet")
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, layer in unet.named_modules():
        if name.endswith(tuple(about.get("targets", TARGETS))):
            rows, *columns = layer.weight.shape  # a convolution's columns are [in, h, w]
            a = torch.randn(4, *columns, generator=generator)
            b = torch.randn(rows, 4, *([1] * (len(columns) - 1)), generator=generator) * 0.01
            state |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    own = {"backbone": fingerprint(backbone), "rank": 4, "alpha": 6.0, "targets": TARGETS}
    save_lora(folder, state, {**own, **about})


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Make the folder of a finished run on a backbone, and go there."""

    def make(backbone: Path) -> Path:
        for file in ("params.yaml", "dvc.yaml", "CITATION.cff"):
            shutil.copy(ROOT / file, tmp_path)
        shutil.copytree(backbone, tmp_path / "models/backbones/shapes")
        experts = ["objects", "count"]
        for name in experts:
            random_lora(backbone, tmp_path / "models/experts" / name, name=name, images=200)
        random_lora(
            backbone,
            tmp_path / "models/merges/merged",
            name="merged",
            operator="factor_mean",
            experts=experts,
        )
        write_json(tmp_path / "metrics/eval.json", SUMMARY)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


@pytest.fixture
def run(make_run: Callable[[Path], Path], tiny_backbone: Path) -> Path:
    return make_run(tiny_backbone)


def draw(backbone: Path, weights: Path | None = None) -> np.ndarray:
    """Two images [2, height, width, 3], 0..255, drawn by diffusers alone, with a LoRA file or without."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(backbone, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if weights is not None:
        pipe.load_lora_weights(weights.parent, weight_name=weights.name)
    images: list[Image.Image] = pipe(
        ["two red circles", "a blue square"],
        num_inference_steps=3,
        guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
    ).images
    return np.stack([np.asarray(image, dtype=int) for image in images])


def weights_of(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def front_matter(folder: Path) -> dict[str, Any]:
    return ModelCard.load(folder / "README.md").data.to_dict()


@pytest.mark.parametrize("targets", [TARGETS, CONVOLUTIONS], ids=["attention", "convolutions"])
@pytest.mark.parametrize("kind", ["tiny_backbone", "tiny_xl"])
def test_diffusers_draws_the_same_images_with_the_kohya_file(kind, targets, make_run, request) -> None:
    backbone = request.getfixturevalue(kind)
    run = make_run(backbone)
    random_lora(backbone, run / "models/merges/merged", targets=targets)
    ours = draw(backbone, weights_of(export.export("merged", "diffusers")))
    kohya = draw(backbone, weights_of(export.export("merged", "kohya", "float32")))
    assert np.abs(ours - draw(backbone)).max() > 8, "the LoRA changes nothing, so this proves nothing"
    assert np.array_equal(ours, kohya)
    half = draw(backbone, weights_of(export.export("merged", "kohya")))
    assert np.abs(ours - half).mean() < 0.25


def test_the_diffusers_file_is_the_runs_own(run) -> None:
    folder = export.export("count", "diffusers")
    assert folder == Path("exports/shapes-count-diffusers")
    assert weights_of(folder).read_bytes() == Path("models/experts/count", WEIGHTS).read_bytes()


@pytest.mark.parametrize("kind", ["tiny_backbone", "tiny_xl"])
def test_a_lora_of_the_text_encoders_is_exported_whole(kind, make_run, request) -> None:
    from selma.backbones.loading import load_pipeline, text_fingerprint
    from selma.lora.adapter import add_lora
    from selma.lora.text import TEXT_TARGETS, add_text_lora, save_with_texts

    backbone = request.getfixturevalue(kind)
    run = make_run(backbone)
    pipe = load_pipeline(backbone)
    add_lora(pipe.unet, 4, 6.0, TARGETS, seed=0)
    model, random = add_text_lora(pipe, 4, 6.0, seed=0), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and "encoders" in name:  # the UNet's changes nothing
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    card = {"name": "merged", "rank": 4, "alpha": 6.0, "targets": TARGETS, "text_targets": list(TEXT_TARGETS)}
    prints = {"backbone": fingerprint(backbone), "text_backbone": text_fingerprint(backbone)}
    save_with_texts(model, run / "models/merges/merged", {**card, **prints}, torch.float32)
    folder = export.export("merged", "kohya", "float32")
    ours = draw(backbone, weights_of(export.export("merged", "diffusers")))
    assert np.abs(ours - draw(backbone)).max() > 4, "the LoRA changes nothing, so this proves nothing"
    assert np.abs(ours - draw(backbone, weights_of(folder))).max() <= 1
    text = (folder / "README.md").read_text()
    assert "and of the text encoders (q_proj, k_proj, v_proj, out_proj) |\n| file |" in text
    write_json(run / "models/merges/merged/lora.json", {**card, **prints, "text_backbone": "0" * 64})
    with pytest.raises(UserError, match=r"on a different backbone than .*, with other text encoders"):
        export.export("merged", "kohya")


def test_the_card_is_a_table_of_whole_rows(run) -> None:
    text = (export.export("merged", "kohya") / "README.md").read_text()
    assert "; text encoders unchanged |\n| file |" in text


def test_a_kohya_file_is_half_precision_unless_asked_and_always_the_same_bytes(run) -> None:
    folder = export.export("merged", "kohya")
    with safe_open(weights_of(folder), framework="pt") as file:
        dtypes = {file.get_tensor(key).dtype for key in file.keys() if "lora_" in key.split(".", 1)[1]}  # noqa: SIM118
        assert file.metadata()["ss_output_name"] == "selma-shapes-merged"
    assert dtypes == {torch.float16}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(4):  # safetensors writes its metadata in a random order; several writes to catch it
        export.export("merged", "kohya")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not [path for path in folder.parent.iterdir() if path != folder], "temporary files are left"


def test_the_folder_names_its_files_and_where_they_come_from(run) -> None:
    folder = export.export("merged", "kohya")
    mark = json.loads((folder / "export.json").read_text())
    assert mark["lora"] == json.loads((run / "models/merges/merged/lora.json").read_text())
    assert mark["files"] == {
        path.name: sha256_file(path) for path in folder.iterdir() if path.name != "export.json"
    }


def test_the_card_of_the_merged_lora(run) -> None:
    folder = export.export("merged", "kohya")
    card = (folder / "README.md").read_text()
    params = load_yaml(run / "params.yaml")
    images = params["images"]["drawing"]
    for fact in (
        "merged into one LoRA",
        "trained on images that the base model drew itself",
        "| skills | objects, count |",
        "by `factor_mean`",
        f"| images | 400, drawn by `shapes`, {images['steps']} steps, guidance {images['guidance']} |",
        "rank 4, alpha 6",
        "| base | 37.87 |\n| with this LoRA | 41.70 |\n| **gain, points** | **+3.83 [+1.86, +5.79]** |",
        "Benchmark `shapes`, judge `oracle`, 150 test prompts x 2 images, ddim, 12 steps at guidance 1.35, 64 px",
        sha256_file(weights_of(folder)),
        "`shapes`, which is not on the hub: SELMA-DVC's stage `pretrain@shapes` made it",
        "#   make setup && .venv/bin/dvc pull -r starter pretrain@shapes\n",
        "they cannot open a base model of this architecture",
    ):
        assert fact in card
    data = front_matter(folder)
    assert data["license"] == "apache-2.0" and data["library_name"] == "diffusers"
    assert "base_model" not in data


def test_the_card_links_the_repository_that_made_the_base_where_its_citation_has_an_address(run) -> None:
    with (run / "CITATION.cff").open("a") as citation:
        citation.write("repository-code: https://example.org/selma-dvc\n")
    card = (export.export("merged", "diffusers") / "README.md").read_text(encoding="utf-8")
    assert "[SELMA-DVC](https://example.org/selma-dvc)'s stage `pretrain@shapes` made it" in card
    assert (
        "# The base model is part of the repository that this LoRA was made in, https://example.org/selma-dvc."
        in card
    )


def test_the_card_does_not_say_that_a_model_drew_a_persons_own_images(run) -> None:
    text = (run / "params.yaml").read_text()
    (run / "params.yaml").write_text(
        text.replace("count: {data: data/images/count,", "count: {data: /pictures/cats,")
    )
    for name, facts in (
        ("count", ("trained on images from cats, which were brought to it.", "| images | 200 |")),
        (
            "merged",
            (
                "from cats, which were brought to it, and on images that `shapes` drew, one for each prompt.",
                "| skills | objects |",
                "| images | 400, the skills' drawn by `shapes`, 12 steps",
            ),
        ),
    ):
        card = (export.export(name, "kohya") / "README.md").read_text()
        assert all(fact in card for fact in facts) and ("| prompts |" in card) == (name == "merged")


POLICIES = """
policies:
  learned: {algorithm: nft, start: models/backbones/shapes, prompts: data/questions,
    rewards: {oracle: 1.0}, images: 5760}
  further: {algorithm: awm, start: models/experts/count, prompts: data/questions/count,
    rewards: {clip: 0.5, solace: 1.0}, images: 576}
  alone: {algorithm: nft, start: models/experts/learned, prompts: data/benchmarks/other,
    rewards: {solace: 1.0}, images: 576}
"""


def test_the_card_claims_no_licence_for_a_lora_that_was_brought(run, tiny_backbone) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["own"]["loras"]["styled"] = {"path": "/loras/styled.safetensors"}
    params["merges"]["blended"] = {"operator": "ties", "experts": ["count", "styled"]}
    yaml.dump(params, Path("params.yaml"))
    random_lora(tiny_backbone, Path("models/experts/styled"), name="styled")
    random_lora(
        tiny_backbone,
        Path("models/merges/blended"),
        name="blended",
        operator="ties",
        experts=["count", "styled"],
    )
    folder = export.export("blended", "kohya")
    card = (folder / "README.md").read_text()
    assert "on what `styled`, a LoRA of another tool (styled.safetensors), was trained on" in " ".join(
        card.split()
    )
    assert (
        "| licence | unknown: the terms of styled, which other tools made, hold beside the base model's"
        in card
    )
    assert (front_matter(folder)["license"], front_matter(folder)["license_name"]) == ("other", "not-stated")
    assert "license_link" not in front_matter(folder)
    with safe_open(weights_of(folder), framework="pt") as opened:
        assert "modelspec.license" not in opened.metadata()


@pytest.fixture
def learned_run(run: Path, tiny_backbone: Path) -> Path:
    """The same run with three policies, and two merges of them."""
    text = (run / "params.yaml").read_text()
    text = text.replace("policies: {}\n", POLICIES)
    text = text.replace(
        "  merged: {operator: factor_mean, experts: null}\n",
        "  merged: {operator: factor_mean, experts: null}\n  both: {operator: factor_mean, experts: [learned, alone]}\n"
        "  mixed: {operator: delta_mean, experts: [objects, learned]}\n",
    )
    text = text.replace(
        "benchmarks:\n  shapes",
        "benchmarks:\n  other: {source: shapes, seed: 1, dev_per_skill: 1, test_per_skill: 1}\n  shapes",
        1,
    )
    (run / "params.yaml").write_text(text)
    for name, rounds, images in (("learned", 30, 5760), ("further", 3, 576), ("alone", 0, 0)):
        random_lora(tiny_backbone, run / "models/experts" / name, name=name, rounds=rounds, images=images)
    made = (("both", "factor_mean", ["learned", "alone"]), ("mixed", "delta_mean", ["objects", "learned"]))
    for name, operator, experts in made:
        random_lora(
            tiny_backbone, run / "models/merges" / name, name=name, operator=operator, experts=experts
        )
    return run


@pytest.mark.parametrize(
    ("name", "facts", "never"),
    [
        (
            "learned",
            (
                "A LoRA that learned online. The model drew pictures for prompts, judges rewarded them,",
                "No training images were used",
                "| learned | by `nft`, from the base model: 5,760 pictures drawn and rewarded in 30 rounds; rewards: "
                "`oracle`; prompts: the pipeline's filtered prompts of objects, paragraph, tags, count, "
                "counterfactual, written by llm.provider `shapes` |",
            ),
            ("trained on images", "| images |", "| skills |"),
        ),
        (
            "further",
            (
                "It also goes back to SELMA experts, trained on images that the base model drew itself",
                "from the expert or policy `count`: 576 pictures",
                "rewards: 0.5 times `clip`, `solace`, the model's own confidence; prompts: the pipeline's filtered "
                "prompts of count, written",
                "| skills | count |",
                "| images | 200, drawn by `shapes`",
            ),
            ("No training images",),
        ),
        (
            "both",
            (
                "2 LoRAs merged into one LoRA, as in [SELMA](https://arxiv.org/abs/2403.06952).\n"
                "Learned online: learned, alone.",
                "No training images were used",
                "| learned | by `nft`, from the base model: 5,760",
                "| alone | by `nft`, from the expert or policy `learned`: 0 pictures drawn and rewarded in 0 rounds; "
                "rewards: `solace`, the model's own confidence; prompts: the dev split of the benchmark `other` |",
            ),
            ("trained on images", "skill-specific"),
        ),
        (
            "mixed",
            (
                "Learned online: learned.",
                "It also goes back to SELMA experts, trained on images",
                "| merged | objects, learned, by `delta_mean`",
                "| skills | objects |",
            ),
            ("No training images",),
        ),
    ],
)
def test_the_card_of_a_policy_says_how_it_learned(learned_run, name, facts, never) -> None:
    card = (export.export(name, "kohya") / "README.md").read_text()
    for fact in facts:
        assert fact in card, card
    assert not [text for text in never if text in card]
    front_matter(Path(f"exports/shapes-{name}-kohya"))


def test_a_policy_that_never_got_better_is_exported_as_it_is(learned_run) -> None:
    """Its kept checkpoint is round 0, so no picture taught it."""
    folder = export.export("alone", "diffusers")
    assert "0 pictures drawn and rewarded in 0 rounds" in (folder / "README.md").read_text()


def test_a_policy_without_a_judge_is_said_to_have_none(learned_run) -> None:
    text = (learned_run / "params.yaml").read_text()
    (learned_run / "params.yaml").write_text(text.replace("rewards: {oracle: 1.0}", "rewards: {solace: 1.0}"))
    card = (export.export("learned", "diffusers") / "README.md").read_text()
    assert "its own confidence rewarded them" in card and "judges" not in card.split("## Measured")[0]


def test_the_cards_own_code_draws(make_run, tiny_backbone, tmp_path) -> None:
    from diffusers import DiffusionPipeline

    half = DiffusionPipeline.from_pretrained(tiny_backbone).to(
        torch.float16
    )  # as the shipped backbone is kept
    half.save_pretrained(tmp_path / "half")
    make_run(tmp_path / "half")
    folder = export.export("merged", "kohya")
    code = (folder / "README.md").read_text().split("```")[1].removeprefix("python")
    names: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder)), names)
    images = names["pipe"]("a red circle", num_inference_steps=2).images
    assert images[0].size == (32, 32)


def test_a_gain_whose_interval_holds_zero_is_none(run) -> None:
    gain = {"mean": 0.01, "low": -0.01, "high": 0.03}
    write_json(run / "metrics/eval.json", {**SUMMARY, "gains": {"merged over base": gain}})
    card = (export.export("merged", "kohya") / "README.md").read_text()
    assert "+1.00 [-1.00, +3.00]" in card and "no difference is seen" in card


def test_the_card_claims_no_gain_that_was_not_measured(run) -> None:
    card = (export.export("count", "kohya") / "README.md").read_text()
    assert "| with this LoRA | 39.47 |" in card and "so no gain is claimed" in card
    assert "gain, points" not in card and "41.70" not in card
    card = (export.export("objects", "kohya") / "README.md").read_text()
    assert "This LoRA was not measured." in card
    (run / "metrics/eval.json").unlink()
    assert "Nothing yet" in (export.export("merged", "kohya") / "README.md").read_text()


def test_the_card_names_a_hub_model_by_id_revision_and_licence(make_run, tiny_xl) -> None:
    run = make_run(tiny_xl)
    vae = {"id": "some/vae", "commit": "5" * 40, "licence": "mit"}
    source = {"id": "some/base-xl", "revision": "4" * 40, "licence": "openrail++", "vae": vae}
    write_json(run / "models/backbones/shapes/source.json", source)
    folder = export.export("merged", "diffusers")
    data, card = front_matter(folder), (folder / "README.md").read_text()
    assert (data["base_model"], data["license"]) == ("some/base-xl", "openrail++")
    assert "stable-diffusion-xl" in data["tags"]
    assert f"revision `{'4' * 40}`, with the VAE of some/vae |" in card
    assert 'base = "some/base-xl"' in card
    assert f'StableDiffusionXLPipeline.from_pretrained(base, revision="{"4" * 40}"' in card


def test_a_base_of_unknown_licence_is_said_to_be_one(run) -> None:
    write_json(run / "models/backbones/shapes/source.json", {"id": None, "revision": None, "licence": None})
    folder = export.export("merged", "kohya")
    data = front_matter(folder)
    assert (data["license"], data["license_name"]) == ("other", "not-stated")
    assert "| licence | unknown" in (folder / "README.md").read_text()


def test_a_scheduler_that_names_no_prediction_type_predicts_the_noise(run) -> None:
    config = run / "models/backbones/shapes/scheduler/scheduler_config.json"
    settings = json.loads(config.read_text())
    del settings["prediction_type"]  # as in Stable Diffusion 1.4's
    write_json(config, settings)
    assert weights_of(export.export("merged", "kohya")).is_file()


def test_what_is_no_export_is_never_overwritten(run) -> None:
    folder = export.export("merged", "kohya")
    (folder / "sample.png").write_bytes(b"mine")
    for out in (folder, run / "models/merges/merged", run / "params.yaml"):
        before = sorted(run.rglob("*"))
        with pytest.raises(UserError, match="--out"):
            export.export("merged", "kohya", out=out)
        assert sorted(run.rglob("*")) == before
    assert (folder / "sample.png").read_bytes() == b"mine"
    (run / "empty").mkdir()
    assert export.export("merged", "kohya", out=run / "empty") == run / "empty"


def test_a_failed_export_leaves_the_one_before_it(run, tiny_backbone) -> None:
    folder = export.export("merged", "kohya")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    random_lora(tiny_backbone, run / "models/merges/merged", targets=["conv_in"])
    with pytest.raises(UserError, match="--format diffusers"):
        export.export("merged", "kohya")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_an_expert_in_half_precision_says_so(run, tiny_backbone) -> None:
    kept = load_lora(run / "models/experts/count")
    save_lora(run / "models/experts/count", kept.state(), kept.provenance, torch.float16)
    folder = export.export("count", "diffusers")
    assert read_json(folder / "export.json")["dtype"] == "float16"
    assert "diffusers layout, float16" in (folder / "README.md").read_text()
    with pytest.raises(UserError, match=r"--dtype float32: .* keeps the run's own float16"):
        export.export("count", "diffusers", "float32")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["colour", "--format", "kohya"], "allowed: merged, objects"),
        (["tags", "--format", "kohya"], "models/experts/tags"),
        (
            ["base", "--format", "kohya"],
            "allowed: merged, objects, paragraph, tags, count, counterfactual, single\n",
        ),
        (["--format", "diffusers", "--dtype", "float16"], "float32"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, named, run, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    with pytest.raises(SystemExit) as left:
        export.main()
    error = capsys.readouterr().err
    assert left.value.code == 2 and named in error and error.count("\n") == 1
    assert not (run / "exports").exists()


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        (
            "models/backbones/shapes/unet/config.json",
            [],
            "unet/config.json: the file is []; it must be a mapping",
        ),
        (
            "models/backbones/shapes/scheduler/scheduler_config.json",
            [1],
            "scheduler_config.json: the file is [1]; it must be",
        ),
        ("models/backbones/shapes/source.json", "x", "source.json: the file is 'x'; it must be a mapping"),
        ("models/experts/count/lora.json", [], "lora.json: the file is []; it must be a mapping of rank"),
        ("models/experts/count/lora.json", {"images": "many"}, "lora.json"),
        ("models/merges/merged/lora.json", {"rank": 4, "alpha": 6, "experts": 3}, "lora.json"),
    ],
)
def test_a_file_of_another_shape_is_named(run, file, content, named) -> None:
    write_json(run / file, content)
    with pytest.raises(UserError) as caught:
        export.export("merged", "kohya")
    assert named in str(caught.value)
    assert not (run / "exports").exists()


def test_an_interrupted_export_is_one_line_and_leaves_nothing(run, monkeypatch, capsys) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kohya, "tensors", interrupt)
    monkeypatch.setattr(sys, "argv", ["export", "--format", "kohya"])
    with pytest.raises(SystemExit) as left:
        export.main()
    assert (left.value.code, capsys.readouterr().err) == (130, "interrupted\n")
    assert not list((run / "exports").iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(run, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "--format", "kohya", "--out", "/proc/export"])
    with pytest.raises(SystemExit) as left:
        export.main()
    error = capsys.readouterr().err
    assert left.value.code == 2 and "/proc" in error and error.count("\n") == 1


def test_a_lora_of_another_backbone_is_refused(run, tiny_backbone_epsilon) -> None:
    random_lora(tiny_backbone_epsilon, run / "models/merges/merged")
    with pytest.raises(UserError, match="a different backbone"):
        export.export("merged", "kohya")
