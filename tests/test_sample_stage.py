from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from selma.backbones.loading import fingerprint, load_pipeline
from selma.ground.errors import UserError
from selma.ground.files import folder_digest, sha256_file
from selma.ground.items import Item, Question, write_split
from selma.ground.models import Model, read_model
from selma.ground.pairs import Pair, image_seed, read_image, read_pairs
from selma.lora.adapter import add_lora, lora_state
from selma.lora.files import save_lora
from selma.runtime import variants
from stages import model, sample

PROMPTS = ["a red circle", "two blue squares", "a green star"]
MODELS = {
    "base": {"weights": "models/backbones/shapes", "guidance": "cfg"},
    "count": {"weights": "models/experts/count", "guidance": "cfg"},
    "merged": {"weights": "models/merges/merged", "guidance": "cfg"},
}
SETTINGS = {
    "models": MODELS,
    "compare": [["merged", "base"]],
    "evaluate.images_per_prompt": 2,
    "evaluate.drawing.steps": 2,
    "evaluate.drawing.batch": 4,
}


def put_lora(folder, backbone, size: float) -> None:
    """A LoRA whose B has entries of about `size`; 0 changes nothing."""
    unet = load_pipeline(backbone).unet
    add_lora(unet, 2, 2.0, ["to_q", "to_v"], seed=0)
    state = {
        key: value if "lora_A" in key else torch.full_like(value, size)
        for key, value in lora_state(unet).items()
    }
    card = {"backbone": fingerprint(backbone), "rank": 2, "alpha": 2.0, "targets": ["to_q", "to_v"]}
    save_lora(folder, state, card)


@pytest.fixture
def project(make_project, monkeypatch):
    root = make_project("project", SETTINGS)
    question = Question("1", "Is there a circle?", ("yes", "no"), "yes", (), "shape")
    items = [Item(f"count-{i}", text, "count", "shapes", (question,)) for i, text in enumerate(PROMPTS)]
    folder = root / "data/benchmarks/shapes"
    write_split(folder, "test", items)
    write_split(folder, "dev", [Item("d", "a dog", "count", "shapes", (question,))])
    put_lora(root / "models/experts/count", root / "models/backbones/shapes", 1.0)
    put_lora(root / "models/merges/merged", root / "models/backbones/shapes", 0.0)
    monkeypatch.chdir(root)

    def run(row: str, benchmark: str = "shapes") -> list[Pair]:
        monkeypatch.setenv("DVC_STAGE", f"model@{row}")
        model.main(row)
        monkeypatch.setenv("DVC_STAGE", f"sample@{row}-{benchmark}")
        sample.main(row, benchmark)
        return read_pairs(root / "data/samples" / row / benchmark)

    return run


def test_every_model_draws_every_test_prompt_on_the_same_noises(project):
    base, expert, merged = (project(row) for row in MODELS)
    assert [(pair.text, pair.k) for pair in base] == [(text, k) for text in PROMPTS for k in (0, 1)]
    assert [pair.file.name for pair in base][:2] == ["count-0-0.webp", "count-0-1.webp"]
    assert [pair.seed for pair in base] == [image_seed(42, pair.id, pair.k) for pair in base]
    pictures = {
        name: np.stack([np.asarray(read_image(pair.file), dtype=int) for pair in pairs])
        for name, pairs in (("base", base), ("expert", expert), ("merged", merged))
    }
    # the LoRA that changes nothing gives the base's very pictures: same noises, only the weights differ
    assert np.abs(pictures["merged"] - pictures["base"]).max() <= 1
    assert (np.abs(pictures["expert"] - pictures["base"]).max((1, 2, 3)) > 8).all()
    assert len(np.unique(pictures["base"], axis=0)) == len(base)


def test_further_benchmarks_are_drawn_beside_the_leading_one_and_change_nothing_of_it(project, monkeypatch):
    def leading() -> dict[str, str]:
        files = Path("data/samples/base/shapes").glob("*.*")
        return {file.name: sha256_file(file) for file in files}

    project("base")
    before = leading()
    # an item with an id of the leading benchmark, and another prompt
    write_split(Path("data/benchmarks/more"), "test", [Item("count-0", "a dog", "x", "x", ())])
    text = Path("params.yaml").read_text().replace("  benchmarks: [shapes]", "  benchmarks: [shapes, more]")
    Path("params.yaml").write_text(
        text.replace("\nbenchmarks:\n", "\nbenchmarks:\n  more: {source: tifa, url: x}\n")
    )
    more = project("base", "more")
    assert leading() == before and len(before) == 2 * len(PROMPTS) + 2
    pairs = read_pairs(Path("data/samples/base/shapes"))
    assert [pair.text for pair in pairs[::2]] == PROMPTS
    assert [(pair.id, pair.text, pair.k) for pair in more] == [("count-0", "a dog", k) for k in (0, 1)]
    assert more[0].file.read_bytes() != pairs[0].file.read_bytes()


def test_an_unknown_model_is_named(project):
    with pytest.raises(
        UserError, match=r"models: no model 'nobody' in params\.yaml; allowed: base, count, merged"
    ):
        project("nobody")
    with pytest.raises(
        UserError, match=r"models: no model 'nobody' in params\.yaml; allowed: base, count, merged"
    ):
        sample.main("nobody", "shapes")


def test_a_models_row_holds_what_it_is_drawn_from(project, monkeypatch, tmp_path):
    """Its LoRA to the byte, and the hash of the guidance method's file: an edit of that file alone draws again."""
    for row in ("base", "count"):
        monkeypatch.setenv("DVC_STAGE", f"model@{row}")
        model.main(row)
    assert not Path("models/rows/base/lora").exists()
    assert folder_digest(Path("models/rows/count/lora")) == folder_digest(Path("models/experts/count"))
    before = folder_digest(Path("models/rows/count"))
    edited = tmp_path / "cfg.py"
    edited.write_text(variants.path("guidance", "cfg").read_text() + "# another scale\n")
    monkeypatch.setattr(variants, "path", lambda door, name: edited)
    model.main("count")
    assert folder_digest(Path("models/rows/count")) != before
    assert read_model(Path("models/rows/count")) == Model(
        "models/experts/count", Path("models/rows/count/lora"), "cfg"
    )
