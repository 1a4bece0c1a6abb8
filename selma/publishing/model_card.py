"""The model card of an exported LoRA: README.md with the front matter that the Hugging Face hub reads.

It says what the LoRA was made from and what was measured, and nothing without a source: figures come from
metrics/eval.json and its neighbours, the licence from the base model's source. The text is model_card.md.j2, next to
this file. The same run gives the same bytes.

The front matter's keys are https://huggingface.co/docs/hub/model-cards', and its `model-index` is built by
huggingface_hub. That format has no field for an interval, so each metric's 95% interval stands in its `args`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.publishing import licences, results
from selma.publishing.gallery import Sample
from selma.reporting.table import gain_text, percent, verdict
from selma.scoring.summary import over

TEMPLATE = Path(__file__).with_name("model_card.md.j2")

_VERDICTS = {
    "gain": "The interval of the gain lies above zero.",
    "loss": "The interval of the gain lies below zero: with this LoRA the model is worse.",
    "none": "The interval of the gain includes zero, so no difference is seen.",
}


@dataclass(frozen=True)
class Base:
    """The base model: on the hub, with `vae` the id of a replacement VAE; or trained here, by the stage `made_by`.

    `project` is the address of the repository that made it, if CITATION.cff states one.
    """

    name: str
    pipeline: str  # diffusers' class, e.g. StableDiffusionXLPipeline
    id: str | None = None
    revision: str | None = None
    licence: str | None = None
    vae: str | None = None
    made_by: str | None = None
    project: str | None = None


@dataclass(frozen=True)
class Lora:
    """The exported LoRA: what lora.json says about it, and the file that holds it."""

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
    text_targets: Sequence[str]
    operator: str | None  # of the merge; None for an expert
    experts: Sequence[str]  # merged into it, or its teachers; empty for an expert
    runs_in_tools: bool  # whether ComfyUI and A1111 know the base model's family
    model: str | None  # its row of `models`, by which eval.json names its scores; None if it was not measured
    base_model: str | None  # the backbone's row
    brought: Sequence[str] = ()  # LoRAs of other tools that were merged into it, under terms of their own


@dataclass(frozen=True)
class Data:
    """What it was trained on: skills, images (None if a lora.json is missing), and where they are from.

    `own` says of every other folder how its images came to be: brought by a person, chosen, drawn again, rendered;
    nothing of how the skills' were made holds for these. `each` is how many images of a skill's prompt there are.
    """

    skills: Sequence[str]
    own: Sequence[str]
    each: int
    images: int | None
    drawn_by: str
    steps: int
    guidance: float
    prompts: str


@dataclass(frozen=True)
class Learned:
    """A policy: who rewarded its pictures, and for which prompts it drew how many, up to the kept checkpoint.

    `start` is the LoRA that it started from; None is the base model. `judged` is False where no judge rewards.
    `images` and `rounds` are None if its lora.json is missing.
    """

    name: str
    algorithm: str
    start: str | None
    rewards: str
    judged: bool
    prompts: str
    images: int | None
    rounds: int | None


@dataclass(frozen=True)
class Hub:
    """What of this run is on the hub, as OWNER/REPO: the folder itself, once it is, and its training images."""

    repo: str | None = None
    dataset: str | None = None


NOT_ON_HUB = Hub()


def render(
    *,
    base: Base,
    lora: Lora,
    data: Data | None,
    learned: Sequence[Learned] = (),
    dtype: str,
    measured: results.Measured | None,
    samples: Sequence[Sample] = (),
    hub: Hub = NOT_ON_HUB,
) -> str:
    """The card's Markdown, from what was measured (None: nothing was) and the run's dtype.

    `data` is None where nothing was trained on images; `learned` are the policies that it was made of; `samples` are
    the gallery's images.
    """
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    scores = _scores(measured.summary, lora) if measured else None
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(
        base=base,
        lora=lora,
        data=data,
        learned=learned,
        dtype=dtype,
        scores=scores,
        samples=samples,
        hub=hub,
    )
    return f"---\n{_front_matter(base, lora, measured, samples, hub)}\n---\n\n{text}\n"


def _front_matter(
    base: Base, lora: Lora, measured: results.Measured | None, samples: Sequence[Sample], hub: Hub
) -> str:
    """The card's YAML. There is no `instance_prompt`: no word triggers the LoRA."""
    from huggingface_hub import ModelCardData

    found = results.eval_results(measured, lora.model, lora.base_model) if measured else []
    of_hub = {"base_model": base.id, "base_model_relation": "adapter"} if base.id else {}
    widget = {"widget": [{"text": one.text, "output": {"url": one.file}} for one in samples]}
    card = ModelCardData(
        **of_hub,
        library_name="diffusers",
        **(licences.front_matter(None) if lora.brought else licences.front_matter(base.licence, base.id)),
        pipeline_tag=results.TASK,
        tags=["text-to-image", "lora", "diffusers", "template:sd-lora", _family(base), "selma"],
        **({"datasets": [hub.dataset]} if hub.dataset else {}),
        **(widget if samples else {}),
        **({"model_name": lora.title, "eval_results": found} if found else {}),
    )
    return card.to_yaml(line_break="\n")


def _family(base: Base) -> str:
    return "stable-diffusion-xl" if "XL" in base.pipeline else "stable-diffusion"


def _scores(summary: Mapping[str, Any], lora: Lora) -> dict[str, Any]:
    """Rows (label, percent) of the base and of this LoRA, the gain with its interval and what it means."""
    models, gain = summary["models"], summary["gains"].get(over(lora.model or "", lora.base_model or ""))
    rows = [
        (label, percent(models[name]["mean"]))
        for label, name in (("base", lora.base_model), ("with this LoRA", lora.model))
        if name in models
    ]
    return {
        "rows": rows,
        "gain": gain and gain_text(gain),
        "verdict": gain and _VERDICTS[verdict(gain)],
        "measured": lora.model in models,
        "benchmark": summary["benchmark"],
        "judge": summary["judge"],
        "drawing": summary["drawing"],
        "n_prompts": summary["n_prompts"],
        "images_per_prompt": summary["images_per_prompt"],
    }
