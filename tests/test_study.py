"""The study pools seeds as it says, and its experiments set params that DVC lets them set."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from selma import study
from selma.runtime.params import load_params

ROOT = Path(__file__).parents[1]


def _scores(gain: float) -> dict[str, dict[str, float]]:
    base = {f"item-{i}": 0.2 + 0.01 * i for i in range(20)}
    merged = {item: score + gain for item, score in base.items()}
    return {"base": base, "merged": merged, "all": dict(base)}


def test_over_all_seeds_an_items_score_is_its_mean():
    pooled = study.pool({1: _scores(0.1), 2: _scores(0.3)}, 200, seed=0, models=["base", "merged", "all"])
    assert pooled["seed"]["1"]["gain"]["mean"] == pytest.approx(0.1)
    assert pooled["seed"]["2"]["gain"]["mean"] == pytest.approx(0.3)
    assert pooled["all"]["gain"] == pytest.approx({"mean": 0.2, "low": 0.2, "high": 0.2})
    assert pooled["all"]["gain_over_single"]["mean"] == pytest.approx(0.2)
    assert pooled["all"]["mean"]["base"] == pytest.approx(0.295)


def test_its_settings_are_ones_that_dvc_takes(tmp_path, monkeypatch):
    from dvc.utils.hydra import apply_overrides

    ran = []
    monkeypatch.setattr(study, "_run", ran.append)
    monkeypatch.setattr(
        study, "_output", lambda command: "" if "for-each-ref" in command else "item,skill,base\n"
    )
    monkeypatch.chdir(ROOT)
    study.seed_scores(43, load_params())
    (command,) = ran
    settings = [word for option, word in pairwise(command) if option == "-S"]
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", settings)
    changed = load_params(tmp_path / "params.yaml")
    assert changed.seed == 43
    assert changed.experts["all"].steps == changed.expert.steps * len(changed.merge.experts)


def test_other_params_make_another_experiment(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(study, "_run", lambda command: names.append(command[command.index("--name") + 1]))
    monkeypatch.setattr(
        study, "_output", lambda command: "" if "for-each-ref" in command else "item,skill,base\n"
    )
    monkeypatch.chdir(tmp_path)
    for file in ("dvc.yaml", "dvc.lock"):
        (tmp_path / file).touch()
    for text in ("a: 1", "a: 2"):
        (tmp_path / "params.yaml").write_text(text)
        study.seed_scores(42, load_params(ROOT / "params.yaml"))
    assert len(set(names)) == 2 and all(name.startswith("study-42-") for name in names)
