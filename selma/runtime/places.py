"""Where files are, relative to the repository; dvc.yaml names the same paths."""

import os
from pathlib import Path

BACKBONES = "models/backbones"
EXPERTS = "models/experts"
MERGES = "models/merges"
MIXTURES = "models/mixtures"
ROWS = "models/rows"  # of `models`, each with what it is drawn from
IMAGES = "data/images"
QUESTIONS = "data/questions"
DRAWN, RENDERED, PICKED = "data/drawn", "data/rendered", "data/picked"  # rows of `draws`, `renders`, `picks`
BENCHMARKS = "data/benchmarks"
SAMPLES = "data/samples"  # of each row of `models`, by benchmark
JUDGES = Path("models/judges")
JUDGE_CARD = "judge.json"  # in models/judges/<name>/: the kind, and where its files came from


def home() -> Path:
    """The repository; under `dvc exp run --temp` still that one, not the copy that will be deleted."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


# Of what is not here yet.
PULLED = "`dvc pull -r starter` brings that of the committed run"
BROUGHT = f"`dvc repro` makes it, {PULLED}"
