"""What runs again after a change, by `dvc status`, and what does not: this dvc.yaml over small stand-ins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selma import skill
from selma.runtime.dvcfile import in_order, load_stages
from selma.runtime.params import SPEED, load_params
from selma.runtime.schema import load_yaml
from tests.clones import ROOT, Clone

SKILLS = load_yaml(ROOT / "params.yaml")["skills"]
MODELS = list(load_yaml(ROOT / "params.yaml")["models"])
LAST = {"evaluate", "report"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which every out says its own path, without git."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("selma", "stages", "data/skills"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".tmp-*"))
    for name in ("data/preferences", "metrics/human", "metrics/policy"):  # by git
        (folder / name).mkdir(parents=True)
    clone = Clone(folder)
    clone.run("dvc", "init", "--no-scm", "--quiet")
    finish(clone)
    return folder


@pytest.fixture
def clone(run: Path, tmp_path: Path) -> Clone:
    return Clone(shutil.copytree(run, tmp_path / "clone", symlinks=True))


def finish(clone: Clone) -> None:
    """Make the outs that are missing, and tell DVC that all stages have run."""
    for stage in load_stages(clone.folder).values():
        for out in (*stage.outs, *stage.metrics, *stage.plots):
            path = clone.folder / out
            if not path.exists():
                file = path if path.suffix else path / "file"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(out)
    clone.run("dvc", "commit", "--force", "--quiet")
    assert stale(clone) == set()


def stale(clone: Clone, same: Collection[str] = ()) -> set[str]:
    """The stages that `dvc repro` runs, if what they write changes, and that of the kinds in `same` does not."""
    shown = clone.run("dvc", "status", "--json").splitlines()
    found = set(json.loads(next(line for line in shown if line.startswith("{"))))
    stages = load_stages(clone.folder)
    for name, stage in stages.items():  # the file's order is the DAG's
        made = [
            out
            for other in found
            if other.partition("@")[0] not in same
            for out in (*stages[other].outs, *stages[other].metrics, *stages[other].plots)
        ]
        if any(_meet(dep, out) for dep in stage.deps for out in made):
            found.add(name)
    return found


def _meet(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def drawn(*models: str, benchmark: str = "shapes") -> set[str]:
    """The stages that draw models and judge their images."""
    return {f"{stage}@{model}-{benchmark}" for stage in ("sample", "answer") for model in models}


def trained(*experts: str) -> set[str]:
    return {f"{stage}@{name}" for stage in ("expert", "select", "model") for name in experts} | drawn(
        *experts
    )


def edit(path: Path) -> None:
    path.write_text(f"{path.read_text()}\n# edited\n")


@contextmanager
def edited(path: Path) -> Iterator[None]:
    """An edit that is taken back."""
    before = path.read_text()
    edit(path)
    yield
    path.write_text(before)


def test_what_changes_speed_runs_nothing(clone: Clone) -> None:
    values = {
        "images.drawing.batch": 7,
        "evaluate.drawing.batch": 7,
        "expert.accumulate": 2,
        "expert.gradient_checkpointing": True,
        "expert.samples": 3,
        "policy.batch": 7,
        "policy.drawing.batch": 7,
        "policy.gradient_checkpointing": True,
        "judge.batch": 7,
        "runtime.device": "cpu",
        "llm.key_env": "KEY",
        **{f"llm.{key}": 9 for key in ("concurrency", "timeout", "retries", "max_requests")},
    }
    assert values.keys() == SPEED
    params = clone.params()
    for key, value in values.items():
        *path, last = key.split(".")
        section = params
        for part in path:
            section = section[part]
        assert section[last] != value
        section[last] = value
    clone.change(**params)
    load_params(clone.folder / "params.yaml")
    assert stale(clone) == set()
    clone.change(expert={"rank": 4})
    assert {f"expert@{name}" for name in (*SKILLS, "single")} <= stale(clone)


def test_a_further_skill_trains_its_own_expert_and_what_reads_every_skill(clone: Clone) -> None:
    path = clone.folder / "params.yaml"
    path.write_text(skill.with_rows(path.read_text(), "animals", load_params(path)))
    folder = clone.folder / "data/skills/shapes"
    shutil.copy(folder / "count.yaml", folder / "animals.yaml")
    made = {f"{stage}@animals" for stage in ("prompts", "filter", "questions", "images")} | trained("animals")
    merged = {"merge@merged", "model@merged"} | drawn("merged")
    assert stale(clone) == made | {"pool"} | trained("single") | merged | LAST


def test_a_skill_that_goes_retrains_what_reads_every_skill_and_no_expert_of_another(clone: Clone) -> None:
    params = clone.params()
    for section in ("experts", "models"):
        del params[section]["tags"]
    clone.change(**params | {"skills": [name for name in SKILLS if name != "tags"]})
    merged = {"merge@merged", "model@merged"} | drawn("merged")
    assert stale(clone) == {"pool"} | trained("single") | merged | LAST


def test_a_further_benchmark_draws_and_asks_its_own_prompts(clone: Clone) -> None:
    """The filter looks for its prompts among those to train on; where none is near, what it kept is the same."""
    clone.change(
        benchmarks={"more": {"source": "shapes", "seed": 7, "dev_per_skill": 1, "test_per_skill": 1}},
        evaluate={"benchmarks": ["shapes", "more"]},
    )
    guard = {f"filter@{name}" for name in SKILLS}
    assert (
        stale(clone, same=["filter"]) == {"benchmark@more"} | guard | drawn(*MODELS, benchmark="more") | LAST
    )


def test_a_guidance_method_runs_what_names_it(clone: Clone) -> None:
    folder = clone.folder / "selma/variants/guidance"
    mine = Path(shutil.copy(folder / "cfg.py", folder / "mine.py"))
    assert stale(clone) == set()
    weights = {"weights": "models/experts/count", "guidance": "mine"}
    clone.change(models={**clone.params()["models"], "another": weights})
    own = {"model@another"} | drawn("another") | LAST
    assert stale(clone) == own
    finish(clone)
    with edited(mine):
        assert stale(clone) == own
    edit(folder / "cfg.py")
    assert stale(clone) >= {f"model@{name}" for name in MODELS} | drawn(*MODELS)


def test_an_edit_of_files_of_ones_own_is_seen(clone: Clone, tmp_path: Path) -> None:
    """A backbone's and a judge's folder, a benchmark's and a LoRA's file and images to train on, in the repository or
    outside."""
    weights = tmp_path / "judge/model.safetensors"
    model, table = tmp_path / "mine/unet/config.json", tmp_path / "ours.csv"
    pictures = clone.folder / "data/own/cats/metadata.csv"
    lora = tmp_path / "styled.safetensors"
    for path in (model, table, pictures, weights, lora):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    params = clone.params()
    params["own"] = {
        "backbones": {"mine": {"path": str(tmp_path / "mine")}},
        "benchmarks": {"ours": {"source": "csv", "path": str(table)}},
        "judges": {"pickscore": {"kind": "pickscore", "path": str(weights.parent)}},
        "loras": {"styled": {"path": str(lora)}},
    }
    params["preferences"] = ["pickscore"]
    params["experts"]["cats"] = {"data": "data/own/cats", "objective": "denoising"}
    params["models"]["styled"] = {"weights": "models/experts/styled", "guidance": "cfg"}
    params["models"]["cats"] = {"weights": "models/experts/cats", "guidance": "cfg"}
    params["evaluate"]["benchmarks"].append("ours")
    params["images"]["backbone"] = "mine"
    clone.change(**params)
    load_params(clone.folder / "params.yaml")
    finish(clone)

    guard = {f"filter@{name}" for name in SKILLS}
    models = [*MODELS, "styled", "cats"]
    rated = {name: {f"prefer@pickscore-{model}-{name}" for model in models} for name in ("shapes", "ours")}
    asked = drawn(*models, benchmark="ours") | rated["ours"]
    with edited(table):
        assert stale(clone, same=["filter"]) == {"own_benchmark@ours"} | guard | asked | LAST

    with edited(weights):
        assert stale(clone) == {"own_judge@pickscore"} | rated["shapes"] | rated["ours"] | LAST

    with edited(lora):
        redrawn = (
            drawn("styled")
            | drawn("styled", benchmark="ours")
            | {f"prefer@pickscore-styled-{name}" for name in rated}
        )
        merged = {"own_lora@styled", "model@styled", "merge@merged"}
        assert stale(clone, same=["merge"]) - redrawn == merged | LAST

    with edited(pictures):
        redrawn = drawn("cats", benchmark="ours") | {f"prefer@pickscore-cats-{name}" for name in rated}
        assert stale(clone, same=["merge"]) - redrawn == trained("cats") | LAST | {"merge@merged"}

    with edited(model):
        assert {"own_backbone@mine", *(f"images@{name}" for name in SKILLS)} <= stale(clone)
        assert "expert@cats" not in stale(clone), "its images are nobody's drawing"
    assert stale(clone) == set()


def test_stages_are_counted_in_dvcs_own_order(clone: Clone) -> None:
    """What a stage says of its place ("stage 12 of 57") follows the order in which `dvc repro` runs them."""
    shown = clone.run("dvc", "repro", "--dry", "--force")
    taken = [line.split("'")[1] for line in shown.splitlines() if line.startswith("Running stage")]
    stages = load_stages(clone.folder)
    frozen = {name for name, stage in stages.items() if stage.frozen}
    assert frozen == {"pretrain@shapes", "pretrain_xl@shapes", "pretrain_mm@shapes"}
    assert [name for name in in_order(stages) if name not in frozen] == taken
