"""params.yaml as typed, frozen dataclasses; anything unexpected in it is a one-line UserError.

The dataclasses below are the whole schema: a field's annotation carries its type and its allowed values, the
loader walks them (schema.py), and `_cross_check` holds what concerns two keys at once. To add a
setting, add a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from selma.ground.errors import UserError
from selma.runtime import variants
from selma.runtime.origins import (
    Backbone,
    Benchmark,
    Count,
    JudgeSource,
    Seed,
    allow,
    allow_all,
    check_backbones,
    check_benchmarks,
    check_judges,
)
from selma.runtime.places import BACKBONES, EXPERTS, IMAGES, MERGED
from selma.runtime.schema import MayBeEmpty, Name, OneOf, Range, Unique, build, load_yaml

SCHEDULERS = ("ddim", "ddpm", "dpm++", "euler", "euler_ancestral", "pndm")

Positive = Annotated[float, Range(0, open_low=True)]
Fraction = Annotated[float, Range(0, 1)]
Guidance = Annotated[float, Range(0)]  # classifier-free guidance scale; 1 is none
Scheduler = Annotated[str, OneOf(*SCHEDULERS)]
Names = Annotated[tuple[Name, ...], Unique()]
AnyNames = Annotated[tuple[Name, ...], Unique(empty=True)]
Pixels = Annotated[int, Range(8)]  # of each side of an image


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
class Store:
    """The DVC remote of the outs; dvc.yaml reads it, no stage does."""

    remote: Name


@dataclass(frozen=True)
class Corpus:
    """One corpus of the embedded backbone's pretraining (selma/shapes/pretraining/corpus.py)."""

    images: Annotated[int, Range(2)]
    captions: Count
    wrong: Fraction
    drop: Fraction
    pairs: Fraction
    spread: Fraction
    jitter: Fraction


@dataclass(frozen=True)
class UnetRun:
    """One run of the embedded backbone's UNet (selma/shapes/pretraining/denoiser.py)."""

    corpora: dict[str, Count]
    noisy: Fraction
    zero_snr: bool
    text: bool
    decay_from: Fraction


@dataclass(frozen=True)
class Pretrain:
    """The embedded backbone's corpora and each part's training steps (selma/shapes/pretraining/pretrain.py)."""

    seed: Seed
    rare: Fraction
    corpora: dict[Name, Corpus]
    vae_steps: Count
    clip_steps: Count
    unet: tuple[UnetRun, ...]


@dataclass(frozen=True)
class Llm:
    provider: Annotated[str, OneOf(*variants.names("providers"))]
    base_url: str | None
    model: str | None
    api: Annotated[str, OneOf("chat", "completions")]
    temperature: Annotated[float, Range(0, 2)]
    top_p: Annotated[float, Range(0, 1, open_low=True)]
    max_tokens: Count
    input_price: Annotated[float, Range(0)] | None
    output_price: Annotated[float, Range(0)] | None
    key_env: str | None
    concurrency: Count
    timeout: Positive
    retries: Annotated[int, Range(0)]
    max_requests: Count


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
    dev: Annotated[int, Range(0)] = 0


@dataclass(frozen=True)
class Images:
    backbone: Name
    scheduler: Scheduler
    steps: Count
    guidance: Guidance
    batch: Count
    resolution: Pixels | None = None


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
    accumulate: Count = 1
    gradient_checkpointing: bool = False
    save_dtype: Annotated[str, OneOf("float32", "float16", "bfloat16")] = "float32"
    resolution: Pixels | None = None


@dataclass(frozen=True)
class Select:
    policy: Annotated[str, OneOf("best", "last")]
    images_per_prompt: Count


@dataclass(frozen=True)
class Merge:
    operator: Annotated[str, OneOf(*variants.names("operators"))]
    experts: Names


@dataclass(frozen=True)
class Evaluate:
    benchmark: Name
    others: AnyNames
    images_per_prompt: Count
    scheduler: Scheduler
    steps: Count
    guidance: Guidance
    batch: Count
    bootstrap: Count
    resolution: Pixels | None = None


@dataclass(frozen=True)
class Judge:
    """Which of `judges` answers the benchmark's questions."""

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
    backbones: Annotated[dict[Name, Backbone], MayBeEmpty()]
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
    judges: dict[Name, JudgeSource]
    judge: Judge
    preferences: AnyNames
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
    if params.filter.keep + params.filter.dev > params.prompts.candidates:
        raise UserError(
            f"filter.keep is {params.filter.keep}, filter.dev {params.filter.dev}; "
            f"together it must be at most prompts.candidates ({params.prompts.candidates})"
        )

    for name, corpus in params.pretrain.corpora.items():
        if corpus.images % 2:
            raise UserError(
                f"pretrain.corpora.{name}.images is {corpus.images}; it must be even: pictures come in pairs"
            )
    for number, run in enumerate(params.pretrain.unet):
        key = f"pretrain.unet[{number}].corpora"
        allow_all(key, run.corpora, params.pretrain.corpora, "in `pretrain.corpora`")

    folders = {IMAGES, *(f"{IMAGES}/{skill}" for skill in params.skills)}
    for name, expert in params.experts.items():
        allow(f"experts.{name}.data", expert.data, folders, "filled by a skill in `skills`")
        steps = expert.steps or params.expert.steps
        if params.expert.checkpoint_every > steps:
            raise UserError(
                f"expert.checkpoint_every is {params.expert.checkpoint_every}; "
                f"it must be at most the {steps} steps of expert {name}"
            )

    allow_all("merge.experts", params.merge.experts, params.experts, "in `experts`")
    check_benchmarks(params.benchmarks, params.evaluate.benchmark, params.evaluate.others)
    check_judges(params.judges, params.judge.name, params.preferences, list(params.models))
    used = {"images.backbone": params.images.backbone, "expert.backbone": params.expert.backbone}
    check_backbones(params.backbones, used)
    if params.expert.accumulate > params.expert.batch:
        raise UserError(
            f"expert.accumulate is {params.expert.accumulate}; "
            f"it must be at most expert.batch ({params.expert.batch})"
        )

    base = f"{BACKBONES}/{params.expert.backbone}"
    weights = {base, MERGED, *(f"{EXPERTS}/{name}" for name in params.experts)}
    for name, model in params.models.items():
        allow(f"models.{name}.weights", model.weights, weights, "made by a stage")
    for name, folder in (("base", base), ("merged", MERGED)):
        if name not in params.models or params.models[name].weights != folder:
            raise UserError(
                f"models.{name} is needed, with weights {folder}: every score is compared with it"
            )
