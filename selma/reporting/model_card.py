"""The model card of an exported LoRA: README.md with the front matter that the Hugging Face hub reads.

It says what the LoRA was made of and what was measured, and nothing that no file says: a figure is one of
metrics/eval.json, a licence one that the base model's source names. The text is model_card.md.j2, beside
this file. The same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.reporting.table import gain_text, percent, verdict
from selma.scoring.summary import MERGED, SINGLE

TEMPLATE = Path(__file__).with_name("model_card.md.j2")

_VERDICTS = {
    "gain": "The interval of the gain lies above zero.",
    "loss": "The interval of the gain lies below zero: with this LoRA the model is worse.",
    "none": "The interval of the gain holds zero, so no difference is claimed.",
}


@dataclass(frozen=True)
class Base:
    """The base model: on the hub, `vae` being the id of another VAE; or trained here, by the stage `made_by`."""

    name: str
    pipeline: str  # diffusers' class, e.g. StableDiffusionXLPipeline
    id: str | None = None
    revision: str | None = None
    licence: str | None = None
    vae: str | None = None
    made_by: str | None = None


@dataclass(frozen=True)
class Lora:
    """The exported LoRA: what lora.json says of it, and the file that holds it."""

    name: str
    title: str
    file: str
    sha256: str
    format: str  # kohya or diffusers
    dtype: str
    rank: int
    alpha: float
    layers: int
    targets: Sequence[str]
    operator: str | None  # of the merge; None for an expert
    experts: Sequence[str]  # merged into it; empty for an expert
    runs_in_tools: bool  # whether ComfyUI and A1111 know the base model's family


@dataclass(frozen=True)
class Data:
    """What it was trained on: skills, images (None where a lora.json is not there), and where they are from."""

    skills: Sequence[str]
    images: int | None
    drawn_by: str
    steps: int
    guidance: float
    prompts: str


@dataclass(frozen=True)
class Exam:
    """The benchmark and judge behind metrics/eval.json's contents; None where nothing was measured."""

    benchmark: str
    judge: str
    steps: int
    guidance: float
    dtype: str  # that the run computed in
    summary: Mapping[str, Any] | None


def render(*, base: Base, lora: Lora, data: Data, exam: Exam) -> str:
    """The card's Markdown; raises UserError where metrics/eval.json is not one of a finished run."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        scores = _scores(exam.summary, lora) if exam.summary else None
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"metrics/eval.json: not of a finished run ({error!r}); run `dvc repro`") from error
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(base=base, lora=lora, data=data, exam=exam, scores=scores) + "\n"


def _scores(summary: Mapping[str, Any], lora: Lora) -> dict[str, Any]:
    """Rows (label, percent) of the base and of this LoRA, the gain with its interval and what it means."""
    rows = [("base", percent(summary["base"]["mean"]))]
    compared = {**summary.get("expert", {}), MERGED: summary.get("merged"), SINGLE: summary.get("single")}
    if own := compared.get(lora.name):
        rows.append(("with this LoRA", percent(own["mean"])))
    gain = summary["gain"] if lora.name == MERGED and own else None
    return {
        "rows": rows,
        "gain": gain and gain_text(gain),
        "verdict": gain and _VERDICTS[verdict(gain)],
        "n_prompts": summary["n_prompts"],
        "images_per_prompt": summary["images_per_prompt"],
    }
