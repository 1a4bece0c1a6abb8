"""params.yaml as typed, frozen dataclasses; anything unexpected in it is a one-line UserError.

The dataclasses below are the whole schema: a field's annotation carries its type and its allowed values, the
loader walks them (selma/schema.py), and `_cross_check` holds what concerns two keys at once. To add a
setting, add a field. Ground floor: imports nothing of selma but errors and schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from selma.errors import UserError
from selma.schema import Name, OneOf, Range, Unique, build, load_yaml

SCHEDULERS = ("ddim", "ddpm", "dpm++", "euler", "euler_ancestral", "pndm")
OPERATORS = ("factor_mean", "delta_mean")
BACKBONES = "models/backbones"
EXPERTS = "models/experts"
MERGED = "models/merged"
IMAGES = "data/images"

Count = Annotated[int, Range(1)]  # how many of something: 1 or more
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, open_low=True)]
Fraction = Annotated[float, Range(0, 1)]
Guidance = Annotated[float, Range(0)]  # classifier-free guidance scale; 1 is none
Scheduler = Annotated[str, OneOf(*SCHEDULERS)]
Names = Annotated[tuple[Name, ...], Unique()]


@dataclass(frozen=True)
class Expert:
    """One LoRA to train: its images, and its own number of steps where it has one."""

    data: str
    steps: Count | None = None


@dataclass(frozen=True)
class Model:
    """What is drawn and judged: a backbone's folder or a LoRA's."""

    weights: str


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark comes from, and how many prompts per skill its splits hold."""

    source: Name
    seed: Seed
    dev_per_skill: Count
    test_per_skill: Count


@dataclass(frozen=True)
class Store:
    """The DVC remote of the outs; dvc.yaml reads it, no stage does."""

    remote: Name


@dataclass(frozen=True)
class Corpus:
    """One corpus of the embedded backbone's pretraining (selma/shapes/corpus.py)."""

    images: Annotated[int, Range(2)]
    captions: Count
    wrong: Fraction
    drop: Fraction
    spread: Fraction


@dataclass(frozen=True)
class Pretrain:
    """The embedded backbone's corpora and each part's training steps (selma/shapes/pretrain.py)."""

    seed: Seed
    rare: Fraction
    broad: Corpus
    curated: Corpus
    vae_steps: Count
    clip_steps: Count
    unet_steps: Count
    curated_from: Count


@dataclass(frozen=True)
class Llm:
    provider: Name
    concurrency: Count


@dataclass(frozen=True)
class Prompts:
    skills: str
    candidates: Count
    per_request: Count
    examples: Annotated[int, Range(1, 3)]  # a skill file has three seeds, so the first pool has three
    round: Count


@dataclass(frozen=True)
class Filter:
    rouge_l: Fraction
    keep: Count


@dataclass(frozen=True)
class Images:
    backbone: Name
    scheduler: Scheduler
    steps: Count
    guidance: Guidance
    batch: Count


@dataclass(frozen=True)
class Training:
    """Section `expert`: how every expert is trained."""

    backbone: Name
    rank: Count
    alpha: Positive
    targets: Names
    learning_rate: Positive
    weight_decay: Annotated[float, Range(0)]
    max_grad_norm: Positive
    caption_dropout: Fraction
    batch: Count
    steps: Count
    checkpoint_every: Count


@dataclass(frozen=True)
class Select:
    policy: Annotated[str, OneOf("best", "last")]
    images_per_prompt: Count


@dataclass(frozen=True)
class Merge:
    operator: Annotated[str, OneOf(*OPERATORS)]
    experts: Names


@dataclass(frozen=True)
class Evaluate:
    benchmark: Name
    images_per_prompt: Count
    scheduler: Scheduler
    steps: Count
    guidance: Guidance
    batch: Count
    bootstrap: Count


@dataclass(frozen=True)
class Judge:
    name: Name


@dataclass(frozen=True)
class Runtime:
    device: Annotated[str, OneOf("auto", "cpu", "cuda", "mps")]
    dtype: Annotated[str, OneOf("float32", "bfloat16", "float16")]


@dataclass(frozen=True)
class Params:
    """The whole of params.yaml; a field per top-level key."""

    profile: Name
    seed: Seed
    skills: Names
    experts: dict[Name, Expert]
    models: dict[Name, Model]
    benchmarks: dict[Name, Benchmark]
    store: Store
    pretrain: Pretrain
    llm: Llm
    prompts: Prompts
    filter: Filter
    images: Images
    expert: Training
    select: Select
    merge: Merge
    evaluate: Evaluate
    judge: Judge
    runtime: Runtime


def load_params(path: Path | None = None) -> Params:
    """The checked contents of `path`, by default params.yaml in the current folder.

    Raises UserError, naming the key, its value and what is allowed, for an unknown or missing key, a wrong
    type, an impossible value, or two keys that contradict each other.
    """
    path = Path("params.yaml") if path is None else path
    params = build(Params, load_yaml(path), where=str(path))
    try:
        _cross_check(params)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return params


def _cross_check(params: Params) -> None:
    """Raise UserError where two keys contradict each other."""
    if params.filter.keep > params.prompts.candidates:
        raise UserError(
            f"filter.keep is {params.filter.keep}; "
            f"it must be at most prompts.candidates ({params.prompts.candidates})"
        )

    for name in ("broad", "curated"):
        images = getattr(params.pretrain, name).images
        if images % 2:
            raise UserError(f"pretrain.{name}.images is {images}; it must be even: pictures come in pairs")

    folders = {IMAGES, *(f"{IMAGES}/{skill}" for skill in params.skills)}
    for name, expert in params.experts.items():
        _allow(f"experts.{name}.data", expert.data, folders, "filled by a skill in `skills`")
        steps = expert.steps or params.expert.steps
        if params.expert.checkpoint_every > steps:
            raise UserError(
                f"expert.checkpoint_every is {params.expert.checkpoint_every}; "
                f"it must be at most the {steps} steps of expert {name}"
            )

    for expert in params.merge.experts:
        _allow("merge.experts holds", expert, params.experts, "in `experts`", verb="")
    _allow("evaluate.benchmark", params.evaluate.benchmark, params.benchmarks, "in `benchmarks`")

    base = f"{BACKBONES}/{params.expert.backbone}"
    weights = {base, MERGED, *(f"{EXPERTS}/{name}" for name in params.experts)}
    for name, model in params.models.items():
        _allow(f"models.{name}.weights", model.weights, weights, "made by a stage")
    for name, folder in (("base", base), ("merged", MERGED)):
        if name not in params.models or params.models[name].weights != folder:
            raise UserError(
                f"models.{name} is needed, with weights {folder}: every score is compared with it"
            )


def _allow(key: str, value: str, allowed: Iterable[str], kind: str, verb: str = " is") -> None:
    """Raise UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{key}{verb} {value}; it must be one {kind}: {', '.join(sorted(allowed))}")
