"""The origins of what is not made here: sections `backbones`, `benchmarks`, `judges` and `own` of params.yaml.

Each names its source or kind, a file of selma/variants, and that file states what else the section NEEDS and TAKES.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from selma.ground.errors import UserError
from selma.ground.schema import Count, Seed, matches, one_of, section
from selma.runtime import variants
from selma.runtime.schema import Name, RowName

EMBEDDED = "shapes"  # the backbone that the pretrain stage makes
_STRONGER = "_xl"  # at the end of the name of the one of SDXL's class, by stage pretrain_xl
MULTIMODAL = "_mm"  # at the end of the name of the one of Janus's class, by stage pretrain_mm

Sha256 = Annotated[str, matches(r"[0-9a-f]{64}", "a sha256 of 64 hex digits, or null")]
Commit = Annotated[
    str,
    matches(
        r"[0-9a-f]{40}",
        "a commit of 40 hex digits, because a branch can change or vanish: "
        "`git ls-remote https://huggingface.co/OWNER/NAME HEAD` prints the newest, the history page lists all",
    ),
]
# Of a dep of DVC, which knows no home folder.
OnDisk = Annotated[
    str,
    matches(
        r"(?![~\s])(?!.*://).*\S", "a path on this disk, from its root or from this folder on, without ~"
    ),
]
Inside = Annotated[str, matches(r"(?!.*\.\.)\w[\w./+-]*", "a path inside the repository")]


@section
class File:
    """One file by URL; `sha256` is null if it has not been checked yet. A `path` belongs in section `own`."""

    url: str | None = None
    path: str | None = None
    sha256: Sha256 | None = None


@section
class Benchmark:
    """Where a benchmark comes from: made from a seed, one file by URL (dsg, tifa), or several (hps)."""

    source: Annotated[str, one_of(variants.names("benchmarks"))]
    seed: Seed | None = None
    dev_per_skill: Count | None = None
    test_per_skill: Count | None = None
    url: str | None = None
    path: str | None = None
    sha256: Sha256 | None = None
    files: Annotated[dict[Name, File], Field(min_length=1)] | None = None


# Where all of a model is in one file, which is no pipeline's folder.
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
SINGLE_FILE = (
    "is a single file; a folder in diffusers' layout (model_index.json, unet/, vae/, ...) is needed: "
    "diffusers makes one by StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER), "
    "or StableDiffusionXLPipeline's"
)


@section
class Vae:
    """A VAE that takes the place of a backbone's own: a hub repository at one commit."""

    id: str
    revision: Commit


@section
class Backbone:
    """Where a backbone comes from: a hub repository in diffusers' layout, at one commit.

    `variant` names the set of weights to use where a part has several (fp16), plain ones where it does not. A folder of
    one's own (`source: local`, `path`) belongs in section `own`.
    """

    source: Annotated[str, one_of(("hub", "local"))]
    id: str | None = None
    revision: Commit | None = None
    path: str | None = None
    variant: Name | None = None
    vae: Vae | None = None


@section
class OwnBackbone:
    """A folder of one's own in diffusers' layout; `variant` and `vae` as a Backbone's."""

    path: OnDisk
    variant: Name | None = None
    vae: Vae | None = None


@section
class OwnBenchmark:
    """A benchmark in files of one's own: one file or, where its source has several (hps), a folder of them."""

    source: Annotated[str, one_of(variants.names("benchmarks"))]
    path: OnDisk


@section
class OwnJudge:
    """A folder of one's own with a judge's files, as stages/judge.py lays them: weights, settings, tokenizer."""

    kind: Annotated[str, one_of(variants.names("judges"))]
    path: OnDisk


@section
class OwnLora:
    """A LoRA of one's own: a file in safetensors by kohya's, diffusers' or peft's names, or a folder with one."""

    path: OnDisk


@section
class Own:
    """Section `own`: what is read from paths on this disk, which DVC watches."""

    backbones: dict[RowName, OwnBackbone]
    benchmarks: dict[RowName, OwnBenchmark]
    judges: dict[RowName, OwnJudge]
    loras: dict[RowName, OwnLora] = Field(default_factory=dict)  # runs from before it have none


@section
class Pinned:
    """Files of one hub repository at one commit, each with its sha256, or null if it is not known yet."""

    repo: Annotated[str, matches(r"[\w.-]+/[\w.-]+", "a hub repository, owner/name")]
    revision: Commit
    files: Annotated[dict[Inside, Sha256 | None], Field(min_length=1)]


@section
class Endpoint:
    """An OpenAI-compatible server; `base_url` null is OpenAI's own, `key_env` as in section `llm`."""

    model: str
    base_url: str | None = None
    key_env: str | None = None


@section
class JudgeSource:
    """Where a judge comes from; stages/judge.py puts it into models/judges/<name>/.

    `tokenizer` is for a score whose own repository has none, `matcher` a sentence embedding that maps a free
    answer to the nearest choice (all-mpnet-base-v2 in TIFA).
    """

    kind: Annotated[str, one_of(variants.names("judges"))]
    weights: Pinned | None = None
    tokenizer: Pinned | None = None
    matcher: Pinned | None = None
    endpoint: Endpoint | None = None


def embedded(worlds: Iterable[str]) -> list[str]:
    """The backbones that the embedded worlds' stages make: of each a weaker, a stronger and a multimodal one."""
    return [world + end for world in worlds for end in ("", _STRONGER, MULTIMODAL)]


def check_benchmark(key: str, benchmark: Benchmark) -> None:
    """Raise UserError, naming `key`, unless a benchmark has the fields that its source needs, and no others."""
    parts = {f"{key}.files.{part}": file for part, file in (benchmark.files or {}).items()}
    for name, file in {key: benchmark, **parts}.items():
        if file.path is not None:
            raise UserError(
                f"{name}.path: files of your own belong in `own.benchmarks`, where DVC sees their edits: "
                f"{key.rpartition('.')[2]}: {{source: {benchmark.source}, path: ...}}"
            )
    states = variants.constants("benchmarks", benchmark.source)
    needs = set(states["NEEDS"])
    _check_fields(key, benchmark, needs, needs | {*states.get("TAKES", ())}, f"the source {benchmark.source}")
    if "FILES" not in states:
        return
    if benchmark.files is not None:
        allow_all(f"{key}.files", benchmark.files, states["FILES"], "of that benchmark's files")
    for name, file in parts.items():
        if file.url is None:
            raise UserError(f"{name}.url is missing; the source {benchmark.source} needs it")


def check_judge(key: str, source: JudgeSource) -> None:
    """Raise UserError, naming `key`, unless a judge has the fields that its kind needs, and no others."""
    states = variants.constants("judges", source.kind)
    needs = set(states["NEEDS"])
    _check_fields(key, source, needs, needs | {*states["TAKES"]}, f"a judge of kind {source.kind}")


def check_backbone(key: str, backbone: Backbone) -> None:
    """Raise UserError, naming `key`, unless a backbone has the fields that its source needs, and no others."""
    if backbone.source == "local" or backbone.path is not None:
        raise UserError(
            f"{key}: a folder of your own belongs in `own.backbones`, where DVC sees its edits: "
            f"{key.rpartition('.')[2]}: {{path: {backbone.path or '...'}}}"
        )
    needs = {"id", "revision"}
    _check_fields(key, backbone, needs, needs | {"variant", "vae"}, "a backbone from source hub")


def check_own_backbone(key: str, backbone: OwnBackbone) -> None:
    """Raise UserError, naming `key`, for a path that is a file of weights."""
    if Path(backbone.path).suffix in WEIGHTS:
        raise UserError(f"{key}.path {SINGLE_FILE}")


def check_own_benchmark(key: str, benchmark: OwnBenchmark) -> None:
    """Raise UserError, naming `key`, for a source that reads no files."""
    if "FILES" not in variants.constants("benchmarks", benchmark.source):
        raise UserError(
            f"{key}.source is {benchmark.source}, which is made from a seed; it belongs in `benchmarks`"
        )


def own_files(path: Path, names: Mapping[str, str], key: str) -> dict[str, Path]:
    """A benchmark's files by part: `path` itself if there is one, else those of these names that the folder holds.

    Raises UserError, naming `key`, for a folder that holds none.
    """
    if len(names) == 1:
        return {part: path for part in names}
    found = {part: path / file for part, file in names.items() if (path / file).is_file()}
    if not found:
        raise UserError(
            f"{key} is {path}; it must be a folder that holds one of: {', '.join(names.values())}"
        )
    return found


def check_own_judge(key: str, judge: OwnJudge) -> None:
    """Raise UserError, naming `key`, for a kind that no folder holds, and for a path that is a file of weights."""
    if "weights" not in variants.constants("judges", judge.kind)["NEEDS"]:
        raise UserError(f"{key}.kind is {judge.kind}, which no folder holds; it belongs in `judges`")
    if Path(judge.path).suffix in WEIGHTS:
        raise UserError(f"{key}.path is a single file; the folder of a judge's files is needed")


def check_own_lora(key: str, lora: OwnLora) -> None:
    """Raise UserError, naming `key`, for a file of pickles."""
    if (found := Path(lora.path).suffix) in WEIGHTS[1:]:
        raise UserError(
            f"{key}.path is a {found} file, which is never loaded, because it may run code; a .safetensors file, or a "
            "folder with one, is needed"
        )


def allow(key: str, value: str, allowed: Iterable[str], kind: str) -> None:
    """Raise UserError, naming `key`, unless `value` is one of `allowed`."""
    allow_all(key, [value], allowed, kind, verb="is")


def allow_all(
    key: str, values: Iterable[str], allowed: Iterable[str], kind: str, verb: str = "holds"
) -> None:
    """Raise UserError, naming `key`, unless each of `values` is one of `allowed`."""
    for value in values:
        if value not in allowed:
            raise UserError(f"{key} {verb} {value}; it must be one {kind}: {', '.join(sorted(allowed))}")


def _check_fields(key: str, section: object, needs: set[str], takes: set[str], owner: str) -> None:
    """Raise UserError unless the optional fields that `owner` needs are given, and no field that it does not take."""
    for field in dataclasses.fields(section):
        if field.default is dataclasses.MISSING:
            continue
        given = getattr(section, field.name) is not None
        if field.name in needs and not given:
            raise UserError(f"{key}.{field.name} is missing; {owner} needs it")
        if given and field.name not in takes:
            raise UserError(f"{key}.{field.name} does not apply to {owner}; remove it")
