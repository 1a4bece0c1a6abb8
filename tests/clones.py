"""A clone of this repository in which commands run as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
SKILLS = ["objects", "count"]
DRAWING = {"scheduler": "ddim", "steps": 4, "batch": 50, "resolution": 64}
LEARNED = {
    "algorithm": "nft",
    "start": "models/backbones/shapes",
    "prompts": "data/questions",
    "rewards": {"oracle": 1.0},
    "held_out": ["clip"],
    "images": 8,
}


class Clone:
    """A clone of this working tree, in which commands run as a user types them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, code: int = 0) -> str:
        """stdout and stderr of a command whose exit code must be `code`."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, f"{' '.join(command)} gave {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        """The variables that commands run with."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "SELMA_TRACKING": "off",
            "SELMA_WARM": "on",  # as users have it
        }
        for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "PYTHONPATH"):
            environment.pop(name, None)
        return environment

    def change(self, **values: object) -> None:
        """Set params: change(filter={"keep": 6}); an empty section takes the place of what is there."""
        path, yaml = self.folder / "params.yaml", YAML()
        yaml.width = 10**6  # a wrapped address in braces is no YAML for every reader
        params = yaml.load(path)
        for section, value in values.items():
            if isinstance(value, dict) and value and section not in ("experts", "models"):
                params[section].update(value)
            else:
                params[section] = value
        yaml.dump(params, path)

    def params(self) -> dict:
        return YAML(typ="safe").load(self.folder / "params.yaml")

    def metrics(self) -> dict:
        return json.loads((self.folder / "metrics/eval.json").read_text())


def copy_tree(target: Path) -> None:
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


def small(folder: Path) -> Clone:
    """A commit of this working tree with a few prompts and steps, and the pretrained backbones; nothing has run."""
    copy_tree(folder)
    clone = Clone(folder)
    data = {**{name: f"data/images/{name}" for name in SKILLS}, "single": "data/images"}
    weights = {
        "base": "models/backbones/shapes",
        **{name: f"models/experts/{name}" for name in data},
        "merged": "models/merges/merged",
        "learned": "models/experts/learned",
    }
    clone.change(
        skills=SKILLS,
        experts={name: {"data": folder, "objective": "denoising"} for name, folder in data.items()},
        policies={"learned": LEARNED},
        policy={
            "prompts": 2,
            "group": 2,
            "examine_every": 1,
            "least_diversity": 0.0,
            "drawing": DRAWING | {"guidance": 1.0},
        },
        models={name: {"weights": folder, "guidance": "cfg"} for name, folder in weights.items()},
        benchmarks={"shapes": {"source": "shapes", "seed": 1, "dev_per_skill": 2, "test_per_skill": 3}},
        prompts={"candidates": 30, "per_request": 10},
        filter={"keep": 8},
        images={"drawing": DRAWING | {"guidance": 3.0}},
        expert={"steps": 4, "checkpoint_every": 2, "batch": 4, "rank": 4},
        evaluate={"drawing": DRAWING | {"guidance": 1.35}, "bootstrap": 200},
    )
    clone.run("git", "init", "--quiet", "--initial-branch=main")
    clone.run("git", "config", "user.email", "test@example.org")
    clone.run("git", "config", "user.name", "test")
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "small settings")
    clone.run("dvc", "pull", "-r", "starter", "pretrain", "pretrain_xl", "pretrain_mm")
    return clone


def chosen(clone: Clone) -> None:
    """Rows of the stages that a plain run has none of: candidates that judges choose from, draws, pairs, gates."""
    once = {
        "source": "images",
        "picker": "threshold",
        "options": {"judge": "clip", "least": {"oracle": 0.01}},
    }
    params = clone.params()
    clone.change(
        images={"candidates": 2},
        rate={"judges": ["oracle", "clip"]},
        draws={
            "again": {
                "weights": "models/experts/round1",
                "prompts": "data/questions",
                "images": 2,
                "first": 2,
            }
        },
        picks={
            "once": once,
            "twice": {**once, "source": "drawn/again"},
            "both": {"source": "images", "picker": "pairs", "options": {"judge": "clip"}},
        },
        experts={
            **params["experts"],
            "round1": {"data": "data/picked/once", "objective": "denoising"},
            "round2": {"data": "data/picked/twice", "objective": "denoising"},
            "preferred": {"data": "data/picked/both", "objective": "dpo", "options": {"beta": 100.0}},
        },
        mixtures={"gates": {"objective": "moe_gates", "experts": None}},
        models={**params["models"], "gates": {"weights": "models/mixtures/gates", "guidance": "cfg"}},
    )
