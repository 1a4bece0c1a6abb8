"""The dataset card: what it says, and that `datasets` finds images and prompts through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from selma.ground.files import write_json, write_jsonl, write_text
from selma.ground.pairs import write_image
from selma.images.card import card
from selma.runtime.params import load_params

ROOT = Path(__file__).parents[1]


def folder_of(root: Path, ids: list[str], split: str, backbone: Path) -> Path:
    """Two images by an id such as "count-test-3-0", which `datasets` alone takes for two splits."""
    drawing = load_params(ROOT / "params.yaml").images.drawing
    for number, id in enumerate(ids):
        write_image(root / f"{id}.webp", Image.new("RGB", (8, 8), (number, 0, 0)))
    rows = [{"file_name": f"{id}.webp", "text": f"text of {id}", "id": id, "seed": 1} for id in ids]
    write_jsonl(root / "metadata.jsonl", rows)
    told = {"title": 'Images, "count"', "about": "Two images.", "images": len(ids), "seed": 42}
    write_text(root / "README.md", card(backbone, drawing, split=split, **told))
    return root


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("ids", [["count-1", "count-2"], ["count-test-1-0", "count-train-2-0"]])
def test_datasets_opens_a_folder_with_its_prompts(ids: list[str], split: str, tmp_path: Path) -> None:
    from datasets import load_dataset

    root = folder_of(tmp_path / "images", ids, split, tmp_path / "backbone")
    found = load_dataset(str(root), cache_dir=str(tmp_path / "cache"))
    assert list(found) == [split]
    assert sorted(found[split]["text"]) == sorted(f"text of {id}" for id in ids)
    assert found[split][0]["image"].size == (8, 8)


def test_the_card_says_where_the_images_come_from(tmp_path: Path) -> None:
    backbone = tmp_path / "sd"
    write_json(
        backbone / "source.json", {"id": "owner/sd", "commit": "0123456789abcdef", "licence": "openrail++"}
    )
    text = (folder_of(tmp_path / "images", ["a"], "train", backbone) / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "openrail++" and head["configs"][0]["data_files"][0]["split"] == "train"
    assert "drawn by `owner/sd@0123456789ab`" in text and "ddim, 12 steps, guidance 3 (cfg), 64 px" in text
