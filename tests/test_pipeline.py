"""The whole pipeline in a temporary clone, on a few prompts and steps, used as a DVC user uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.e2e
SKILLS = ["objects", "count"]


class Clone:
    """A clone of this working tree, in which commands run as a user types them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, code: int = 0) -> str:
        """stdout and stderr of a command whose exit code must be `code`."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "SELMA_TRACKING": "off",
        }
        for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "PYTHONPATH"):
            environment.pop(name, None)
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, f"{' '.join(command)} gave {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def change(self, **values: object) -> None:
        """Set params: change(filter={"keep": 6})."""
        path, yaml = self.folder / "params.yaml", YAML()
        params = yaml.load(path)
        for section, value in values.items():
            if isinstance(value, dict) and section not in ("experts", "models"):
                params[section].update(value)
            else:
                params[section] = value
        yaml.dump(params, path)

    def metrics(self) -> dict:
        return json.loads((self.folder / "metrics/eval.json").read_text())


def _copy_tree(target: Path) -> None:
    """This working tree's files as git has them, uncommitted changes included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A commit of this tree with small settings, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("clone")
    _copy_tree(folder)
    clone = Clone(folder)
    experts = {name: {"data": f"data/images/{name}"} for name in SKILLS} | {"all": {"data": "data/images"}}
    models = {
        "base": {"weights": "models/backbones/shapes"},
        **{name: {"weights": f"models/experts/{name}"} for name in experts},
        "merged": {"weights": "models/merged"},
    }
    clone.change(
        skills=SKILLS,
        experts=experts,
        models=models,
        benchmarks={"shapes": {"source": "shapes", "seed": 1, "dev_per_skill": 2, "test_per_skill": 3}},
        prompts={"candidates": 30, "per_request": 10},
        filter={"keep": 8},
        images={"steps": 4},
        expert={"steps": 4, "checkpoint_every": 2, "batch": 4, "rank": 4},
        merge={"experts": SKILLS},
        evaluate={"steps": 4, "bootstrap": 200},
    )
    clone.run("git", "init", "--quiet", "--initial-branch=main")
    clone.run("git", "config", "user.email", "test@example.org")
    clone.run("git", "config", "user.name", "test")
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "small settings")
    clone.run("dvc", "pull", "pretrain")
    clone.run("dvc", "repro")
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "a run")
    return clone


def test_repro_makes_metrics_a_report_and_a_grid(clone):
    metrics = clone.metrics()
    assert set(metrics) >= {
        "base",
        "merged",
        "single",
        "gain",
        "gain_over_single",
        "expert",
        "skill",
        "category",
    }
    assert metrics["gain"]["low"] <= metrics["gain"]["mean"] <= metrics["gain"]["high"]
    assert metrics["gain"]["mean"] == pytest.approx(
        metrics["merged"]["mean"] - metrics["base"]["mean"], abs=1e-3
    )
    page = (clone.folder / "data/report/index.html").read_text()
    assert "data:image/png;base64" in page and 'src="http' not in page
    assert (clone.folder / "data/grid/before_after.png").stat().st_size > 1000


def test_images_open_as_an_imagefolder(clone, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = clone.folder / "data/images/count"
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path)
    )
    assert loaded.num_rows == 8 and loaded[0]["image"].size == (64, 64) and loaded[0]["text"]


def test_a_second_repro_finds_nothing_changed(clone):
    started = time.monotonic()
    assert "up to date" in clone.run("dvc", "repro")
    assert time.monotonic() - started < 30  # a hang, not a speed: README and bench speak of speed


def test_an_ablation_redraws_nothing_but_the_merged_model(clone):
    printed = clone.run("dvc", "exp", "run", "--name", "delta", "--set-param", "merge.operator=delta_mean")
    ran = {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}
    assert ran == {"merge", "sample@merged", "answer@merged", "evaluate", "report"}
    shown = clone.run("dvc", "exp", "show", "--csv")
    assert "delta" in shown and "delta_mean" in shown
    assert "merge.operator" in clone.run("dvc", "params", "diff")
    clone.run("git", "checkout", "--quiet", ".")
    clone.run("dvc", "checkout")


def test_metrics_of_branches_are_compared(clone):
    clone.run("dvc", "exp", "branch", "delta", "delta-branch")
    assert "metrics/merge.json" in clone.run("dvc", "metrics", "diff", "delta-branch", "--all")
    assert (
        "static/plots" in clone.run("dvc", "plots", "show")
        or (clone.folder / "dvc_plots/index.html").exists()
    )


def test_a_team_remote_serves_another_clone(clone, tmp_path):
    """As the README says: name the remote, point store.remote at it, push; a colleague pulls."""
    remote, other = tmp_path / "remote", Clone(tmp_path / "other")
    clone.run("dvc", "remote", "add", "team", str(remote))
    clone.change(store={"remote": "team"})
    assert "up to date" in clone.run("dvc", "status", "merge")
    clone.run("dvc", "push", "images@count", "merge")
    clone.run("git", "commit", "--quiet", "--all", "--message", "a team's remote")
    subprocess.run(["git", "clone", "--quiet", str(clone.folder), str(other.folder)], check=True)
    other.run("dvc", "pull", "images@count", "merge")
    for name in ("data/images/count/metadata.jsonl", "models/merged/pytorch_lora_weights.safetensors"):
        assert (other.folder / name).read_bytes() == (clone.folder / name).read_bytes()


def test_draw_writes_base_beside_merged(clone):
    clone.run("python", "-m", "selma.draw", "two red circles on a black background", "--out", "drawn.png")
    assert (clone.folder / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_wrong_is_said_in_one_line_by_a_stage(clone):
    clone.change(expert={"rank": 0})
    lines = [
        line
        for line in clone.run("python", "-m", "stages.expert", "count", code=2).splitlines()
        if line.strip()
    ]
    assert len(lines) == 1 and "expert.rank" in lines[0] and "0" in lines[0]
    clone.run("git", "checkout", "--quiet", "params.yaml")


def test_this_repository_pulls_everything_of_its_committed_run(tmp_path):
    """A bare `dvc pull` in a fresh clone exits 0 and brings what the README's table was made from."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "fresh")], check=True)
    fresh = Clone(tmp_path / "fresh")
    fresh.run("dvc", "pull")
    for name in ("models/merged/pytorch_lora_weights.safetensors", "data/answers/merged.jsonl"):
        assert (fresh.folder / name).is_file()
    assert "up to date" in fresh.run("dvc", "status")
