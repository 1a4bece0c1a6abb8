"""The curve over guidance and the gates, on a tiny backbone: what they write, and that a second call draws nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from selma import curve, gates
from selma.ground.items import Item, Question, write_split
from selma.images import sampler
from selma.scoring import exam
from tests.test_sample_stage import SETTINGS, put_lora


def item(name: str, *shapes: str) -> Item:
    """An item that asks for every shape and its colour."""
    questions = []
    for shape in shapes:
        there = str(len(questions) + 1)
        questions.append(Question(there, f"Is there a {shape}?", ("yes", "no"), "yes", (), "object"))
        color = Question(
            str(len(questions) + 1), f"Is the {shape} red?", ("yes", "no"), "yes", (there,), "color"
        )
        questions.append(color)
    return Item(name, f"{name}: red {' and '.join(shapes)}", "objects", "shapes", tuple(questions))


@pytest.fixture
def project(make_project, monkeypatch):
    root = make_project("project", SETTINGS | {"evaluate.bootstrap": 50, "evaluate.drawing.guidance": 1.5})
    for split in ("dev", "test"):
        items = [item(f"{split}-one", "circle"), item(f"{split}-two", "square", "cross")]
        write_split(root / "data/benchmarks/shapes", split, items)
    put_lora(root / "models/merges/merged", root / "models/backbones/shapes", 1.0)
    monkeypatch.chdir(root)
    monkeypatch.setattr(exam, "_SCALES", (1.0, 2.0))
    return root


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_compared_model_and_pair_has_a_row_at_every_scale_on_both_splits(project, monkeypatch):
    curve.main()
    found = rows("metrics/study/guidance.csv")
    names = ["base", "merged", "merged over base"]
    assert [(row["split"], row["guidance"], row["model"]) for row in found] == [
        (split, guidance, name)
        for split in ("dev", "test")
        for guidance in ("1.0", "1.5", "2.0")
        for name in names
    ]
    for row in found:
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    for base, merged, gain in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert float(gain["mean"]) == pytest.approx(float(merged["mean"]) - float(base["mean"]), abs=2e-4)

    written = Path("metrics/study/guidance.csv").read_bytes()
    monkeypatch.setattr(sampler, "draw", lambda *arguments, **options: pytest.fail("drawn again"))
    curve.main()
    assert Path("metrics/study/guidance.csv").read_bytes() == written


def test_the_gates_are_measured_at_every_scale(project, monkeypatch, capsys):
    monkeypatch.setenv("DVC_STAGE", "gates")
    gates.main()
    found = rows("metrics/study/gates.csv")
    assert [row["guidance"] for row in found] == ["1.0", "1.5", "2.0"]
    assert list(found[0]) == ["guidance", "faithfulness", "single_color", "pair_color"]
    assert all(0 <= float(value) <= 1 for row in found for key, value in row.items() if key != "guidance")
    assert "guidance 1.5" in capsys.readouterr().out
