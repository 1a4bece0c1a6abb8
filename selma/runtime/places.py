"""Where things lie, relative to the repository; dvc.yaml names the same paths."""

from pathlib import Path

BACKBONES = "models/backbones"
EXPERTS = "models/experts"
MERGED = "models/merged"
IMAGES = "data/images"
JUDGES = Path("models/judges")
JUDGE_CARD = "judge.json"  # in models/judges/<name>/: the kind, and where its files came from
