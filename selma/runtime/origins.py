"""Where what is not made here comes from: sections `backbones`, `benchmarks` and `judges` of params.yaml.

Each names its source, and by that what else it must name; the checks at the end hold that. Ground floor: imports
nothing of selma but errors, schema and variants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated

from selma.ground.errors import UserError
from selma.runtime import variants
from selma.runtime.schema import Matches, Name, OneOf, Range

EMBEDDED = "shapes"  # the backbone that the pretrain stage makes

Count = Annotated[int, Range(1)]  # how many of something: 1 or more
Seed = Annotated[int, Range(0, 2**32 - 1)]
Sha256 = Annotated[str, Matches(r"[0-9a-f]{64}", "a sha256 of 64 hex digits, or null")]
Commit = Annotated[
    str,
    Matches(
        r"[0-9a-f]{40}",
        "a commit of 40 hex digits, because a branch can change or vanish: "
        "`git ls-remote https://huggingface.co/OWNER/NAME HEAD` prints the newest, the page's history lists all",
    ),
]


@dataclass(frozen=True)
class File:
    """One file, by URL or by local path; `sha256` is null where nobody has checked it yet."""

    url: str | None = None
    path: str | None = None
    sha256: Sha256 | None = None


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark comes from: made from a seed, one file (dsg, tifa), or several (hps).

    The source's file in selma/variants/benchmarks says which of the fields it NEEDS and which it TAKES.
    """

    source: Annotated[str, OneOf(*variants.names("benchmarks"))]
    seed: Seed | None = None
    dev_per_skill: Count | None = None
    test_per_skill: Count | None = None
    url: str | None = None
    path: str | None = None
    sha256: Sha256 | None = None
    files: dict[Name, File] | None = None


@dataclass(frozen=True)
class Vae:
    """A VAE that takes the place of a backbone's own: a hub repository at one commit."""

    id: str
    revision: Commit


@dataclass(frozen=True)
class Backbone:
    """Where a backbone comes from: a hub repository (id, revision) or a folder (path), in diffusers' layout.

    `variant` names the set of weights to take where a part has several (fp16), plain ones where it has not.
    """

    source: Annotated[str, OneOf("hub", "local")]
    id: str | None = None
    revision: Commit | None = None
    path: str | None = None
    variant: Name | None = None
    vae: Vae | None = None


@dataclass(frozen=True)
class Pinned:
    """Files of one hub repository at one commit, each with its sha256, or null where nobody knows it yet."""

    repo: Annotated[str, Matches(r"[\w.-]+/[\w.-]+", "a hub repository, owner/name")]
    revision: Commit
    files: dict[
        Annotated[str, Matches(r"(?!.*\.\.)\w[\w./+-]*", "a path inside the repository")],
        Sha256 | None,
    ]


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server; `base_url` null is OpenAI's own, `key_env` as in section `llm`."""

    model: str
    base_url: str | None = None
    key_env: str | None = None


@dataclass(frozen=True)
class JudgeSource:
    """Where a judge comes from; stages/judge.py brings it into models/judges/<name>/.

    `tokenizer` is for a score whose own repository holds none, `matcher` a sentence embedding that maps a free
    answer to the nearest choice (all-mpnet-base-v2 in TIFA).
    """

    kind: Annotated[str, OneOf(*variants.names("judges"))]
    weights: Pinned | None = None
    tokenizer: Pinned | None = None
    matcher: Pinned | None = None
    endpoint: Endpoint | None = None


def check_benchmarks(benchmarks: Mapping[str, Benchmark], primary: str, others: Sequence[str]) -> None:
    """Raise UserError unless every benchmark names what its source needs, and those in use are there, each once."""
    allow("evaluate.benchmark", primary, benchmarks, "in `benchmarks`")
    allow_all("evaluate.others", others, benchmarks, "in `benchmarks`")
    if primary in others:
        raise UserError(f"evaluate.others holds {primary}, which is evaluate.benchmark; name it once")
    for name, benchmark in benchmarks.items():
        _check_benchmark(f"benchmarks.{name}", benchmark)


def check_judges(
    judges: Mapping[str, JudgeSource], asked: str, preferences: Sequence[str], models: Sequence[str]
) -> None:
    """Raise UserError unless every judge names what its kind needs, and those in use are there and can do it.

    asked: the one that answers questions. preferences: those that score images, each of every one of `models`.
    """
    for name, source in judges.items():
        _check_judge(f"judges.{name}", source)
    allow("judge.name", asked, judges, "in `judges`")
    if not variants.constants("judges", judges[asked].kind)["ANSWERS"]:
        raise UserError(f"judge.name is {asked}, which answers no questions; see `preferences`")
    allow_all("preferences", preferences, judges, "in `judges`")
    for name in preferences:
        if judges[name].kind == "embedded":
            raise UserError(f"preferences holds {name}, which scores no images for their prompts")
    scored = [f"{judge}-{model}" for judge in preferences for model in models]
    for name in scored:
        if scored.count(name) > 1:
            raise UserError(f"preferences and models make two stages prefer@{name}; rename one of them")


def check_backbones(backbones: Mapping[str, Backbone], used: Mapping[str, str]) -> None:
    """Raise UserError unless every backbone names what its source needs, and those `used`, by key, are there."""
    for name, backbone in backbones.items():
        if name == EMBEDDED:
            raise UserError(f"backbones.{name}: the embedded backbone has that name; choose another")
        _check_backbone(f"backbones.{name}", backbone)
    for key, name in used.items():
        allow(key, name, {EMBEDDED, *backbones}, "in `backbones`, or the embedded one")


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


def _check_benchmark(key: str, benchmark: Benchmark) -> None:
    states = variants.constants("benchmarks", benchmark.source)
    needs = set(states["NEEDS"])
    _check_fields(key, benchmark, needs, needs | {*states.get("TAKES", ())}, f"the source {benchmark.source}")
    if "FILES" not in states:
        return
    if benchmark.files is not None:
        allow_all(f"{key}.files", benchmark.files, states["FILES"], "of that benchmark's files")
    files = {f"{key}.files.{part}": file for part, file in (benchmark.files or {}).items()} or {
        key: benchmark
    }
    for name, file in files.items():
        if (file.url is None) == (file.path is None):
            raise UserError(f"{name} needs either url or path, one of the two")


def _check_judge(key: str, source: JudgeSource) -> None:
    states = variants.constants("judges", source.kind)
    needs = set(states["NEEDS"])
    _check_fields(key, source, needs, needs | {*states["TAKES"]}, f"a judge of kind {source.kind}")


def _check_backbone(key: str, backbone: Backbone) -> None:
    needs = {"hub": {"id", "revision"}, "local": {"path"}}[backbone.source]
    takes = needs | {"variant", "vae"}
    _check_fields(key, backbone, needs, takes, f"a backbone from source {backbone.source}")


def _check_fields(key: str, section: object, needs: set[str], takes: set[str], owner: str) -> None:
    """Raise UserError unless the optional fields that `owner` needs are given, and none that it does not take."""
    for field in fields(section):
        if field.default is MISSING:
            continue
        given = getattr(section, field.name) is not None
        if field.name in needs and not given:
            raise UserError(f"{key}.{field.name} is missing; {owner} needs it")
        if given and field.name not in takes:
            raise UserError(f"{key}.{field.name} means nothing to {owner}; take it out")
