"""params.yaml as typed, frozen dataclasses; anything unexpected in it is a one-line UserError.

The sections below are the whole schema: a field's annotation carries its type and its allowed values (schema.py),
and checks.py checks two keys against each other. To add a setting, add a field. Where a choice is a file of
selma/variants, the folder's listing is what is allowed. Library functions take these sections as they are.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from selma.ground.errors import UserError
from selma.ground.schema import Count, Fraction, Positive, Seed, build, once, one_of, section
from selma.runtime import timing, variants
from selma.runtime.candidates import DrawRow, Many, PickRow, Rate, RenderRow
from selma.runtime.checks import cross_check
from selma.runtime.drawing import Drawing, NonNegative
from selma.runtime.learning import Few, Policy, PolicyRow
from selma.runtime.mixtures import Mixture
from selma.runtime.origins import EMBEDDED, Backbone, Benchmark, JudgeSource, OnDisk, Own, OwnBenchmark
from selma.runtime.pretraining import Pretrain, PretrainMm, PretrainXl
from selma.runtime.schema import AnyNames, Name, Names, RowName, load_yaml
from selma.runtime.training import Decay, Schedule, Steps, Training

# What changes speed, memory or cost, never results beyond the rounding of kernels. dvc.yaml declares none
# of it, so that another value runs no stage again, and an unfinished stage resumes with it.
SPEED = frozenset(
    {
        *(f"llm.{key}" for key in ("concurrency", "timeout", "retries", "max_requests", "key_env")),
        "images.drawing.batch",
        "expert.accumulate",
        "expert.gradient_checkpointing",
        "expert.samples",
        "policy.drawing.batch",
        "policy.batch",
        "policy.gradient_checkpointing",
        "evaluate.drawing.batch",
        "judge.batch",
        "runtime.device",
    }
)


@section
class Expert:
    """One LoRA to train: its images, the objective, and settings of section `expert` that are its own.

    `data` is data/images or a skill's folder in it, or an imagefolder of one's own (selma/ground/pairs.py). Of
    data/images, `skills` names those whose images it trains on; null is all. `options` are the objective's settings,
    those that its file states.
    """

    data: OnDisk
    objective: Annotated[str, one_of(variants.names("objectives", MIXES=False))]
    rank: Count | None = None
    alpha: Positive | None = None
    rslora: bool | None = None
    targets: Names | None = None
    learning_rate: Positive | None = None
    schedule: Schedule | None = None
    warmup: Steps | None = None
    min_snr: Positive | None = None
    ema: Decay | None = None
    text_encoder: bool | None = None
    caption_dropout: Fraction | None = None
    batch: Count | None = None
    steps: Count | None = None
    skills: Names | None = None
    options: dict[str, Any] = Field(default_factory=dict)


@section
class Merge:
    """Experts to merge, and how; `experts` null is one expert for each skill, of the skill's name.

    `options` are the operator's settings, those that its file states.
    """

    operator: Annotated[str, one_of(variants.names("operators"))]
    experts: Names | None
    options: dict[str, Any] = Field(default_factory=dict)


@section
class Model:
    """What is drawn and judged: a backbone's folder or a LoRA's, and the method of guidance with its settings."""

    weights: str
    guidance: Annotated[str, one_of(variants.names("guidance"))]
    options: dict[str, Any] = Field(default_factory=dict)


@section
class Llm:
    """Who writes the prompts and their questions, and how it is asked."""

    provider: Annotated[str, one_of(variants.names("providers"))]
    base_url: str | None = None
    model: str | None = None
    api: Annotated[str, one_of(("chat", "completions"))] = "chat"
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Count = 2048
    input_price: NonNegative | None = None
    output_price: NonNegative | None = None
    key_env: str | None = None
    concurrency: Count = 1
    timeout: Positive = 120.0
    retries: Annotated[int, Field(ge=0)] = 6
    max_requests: Count = 200


@section
class Prompts:
    skills: str
    candidates: Count
    per_request: Count
    examples: Annotated[int, Field(ge=1, le=3)]  # a skill file has three seeds, so the first pool has three
    round: Count


@section
class Filter:
    rouge_l: Fraction
    keep: Count
    dev: Annotated[int, Field(ge=0)] = 0


@section
class Questions:
    """Who writes the filtered prompts' questions: the LLM of section `llm`, or nobody."""

    source: Annotated[str, one_of(("llm", "none"))]


@section
class Images:
    """`candidates` is how many images are drawn of every prompt."""

    backbone: Name
    drawing: Drawing
    candidates: Many = 1


@section
class Select:
    policy: Annotated[str, one_of(("best", "last"))]
    images_per_prompt: Few


@section
class Evaluate:
    """`benchmarks` in use, the first of which leads."""

    benchmarks: Names
    images_per_prompt: Few
    drawing: Drawing
    bootstrap: Annotated[int, Field(ge=2, le=10**6)]  # resamples


@section
class Judge:
    """Which judge, of `judges` or `own.judges`, answers questions, and its kind again: dvc.yaml finds its file by it.

    `batch` is how many questions, or images, any judge is asked at once: in one pass of a local model, or in flight to
    a server. The prices of a server are per million tokens, for the report; None: no estimate of the cost.
    """

    name: Name
    kind: Annotated[str, one_of(variants.names("judges"))]
    batch: Few = 8
    input_price: NonNegative | None = None
    output_price: NonNegative | None = None


@section
class Runtime:
    device: Annotated[str, one_of(("auto", "cpu", "cuda", "mps"))]
    dtype: Annotated[str, one_of(("float32", "bfloat16", "float16"))]


@section
class Params:
    """The whole of params.yaml; a field per top-level key."""

    profile: Name
    seed: Seed
    skills: Annotated[tuple[RowName, ...], Field(min_length=1), once]
    experts: Annotated[dict[RowName, Expert], Field(min_length=1)]
    renders: dict[RowName, RenderRow]
    draws: dict[RowName, DrawRow]
    picks: dict[RowName, PickRow]
    policies: dict[RowName, PolicyRow]
    merges: dict[RowName, Merge]
    mixtures: dict[RowName, Mixture]
    models: Annotated[dict[RowName, Model], Field(min_length=1)]
    compare: Annotated[tuple[tuple[Name, Name], ...], Field(min_length=1)]
    backbones: dict[RowName, Backbone]
    benchmarks: dict[RowName, Benchmark]
    own: Own
    worlds: Annotated[tuple[Annotated[str, one_of((EMBEDDED,))], ...], once]
    pretrain: Pretrain
    pretrain_xl: PretrainXl
    pretrain_mm: PretrainMm
    llm: Llm
    prompts: Prompts
    filter: Filter
    questions: Questions
    images: Images
    rate: Rate
    expert: Training
    policy: Policy
    select: Select
    evaluate: Evaluate
    judges: Annotated[dict[RowName, JudgeSource], Field(min_length=1)]
    judge: Judge
    preferences: AnyNames
    runtime: Runtime


@timing.phase("loading")
def load_params(path: Path | None = None) -> Params:
    """The checked contents of `path`, by default params.yaml in the current folder.

    Raises UserError, naming the key, its value and what is allowed, for an unknown or missing key, a wrong
    type, an impossible value, or two keys that contradict each other.
    """
    path = Path("params.yaml") if path is None else path
    return build_params(load_yaml(path), where=str(path))


def benchmark_of(params: Params, name: str) -> Benchmark | OwnBenchmark:
    """The row of a benchmark, pinned or one's own."""
    return params.benchmarks[name] if name in params.benchmarks else params.own.benchmarks[name]


def results(section: object, key: str) -> dict[str, Any]:
    """The section at `key` of params.yaml as plain data, without what changes speed alone: what an out may show."""
    values = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    return {
        name: results(value, f"{key}.{name}") if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
        if f"{key}.{name}" not in SPEED
    }


def build_params(value: Any, where: str) -> Params:
    """Params from plain YAML data; `where` opens every error."""
    params = build(Params, value, where)
    try:
        cross_check(params)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return params
