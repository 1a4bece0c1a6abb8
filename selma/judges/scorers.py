"""Judges that score an image for its prompt: human-preference scores, CLIPScore, and VQAScore of any other judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from PIL import Image

from selma.ground.errors import UserError
from selma.judges import load_judge, read_card
from selma.published import FOLDER


class Scorer(Protocol):
    """Anything that scores an image for a prompt; the higher the better, each on a scale of its own."""

    def score(self, image: Image.Image, prompt: str) -> float: ...


# A scorer's modules are loaded only where it is named.
def _pickscore(folder: Path, device: str) -> Scorer:
    from selma.judges.clip import load_pickscore

    return load_pickscore(folder, device)


def _clipscore(folder: Path, device: str) -> Scorer:
    from selma.judges.clip import load_clipscore

    return load_clipscore(folder, device)


def _hps(folder: Path, device: str) -> Scorer:
    from selma.judges.clip import load_hps

    return load_hps(folder, device)


def _image_reward(folder: Path, device: str) -> Scorer:
    from selma.judges.image_reward import load_image_reward

    return load_image_reward(folder, device)


# Kinds of scorers: (folder, runtime.device) -> scorer. All run in float32.
SCORERS: dict[str, Callable[[Path, str], Scorer]] = {
    "pickscore": _pickscore,
    "clipscore": _clipscore,
    "hps": _hps,
    "image_reward": _image_reward,
}


def load_scorer(name: str, device: str = "auto", dtype: str = "float32") -> Scorer:
    """The scorer in models/judges/<name>; a judge that answers questions scores by VQAScore, in `dtype`.

    Raises UserError for a name that has no folder, a folder that cannot be loaded, and a judge without scores.
    """
    kind = read_card(name)["kind"]
    if kind in SCORERS:
        return SCORERS[kind](FOLDER / name, device)
    judge = load_judge(name, device, dtype)
    if not hasattr(judge, "score"):
        raise UserError(f"preferences holds {name}, a judge that gives no scores")
    return judge
