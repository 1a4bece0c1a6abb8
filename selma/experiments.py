"""Run a set of pipeline runs from experiments.yaml through `dvc exp run`, and pool their results.

    python -m selma.experiments            list the sets
    python -m selma.experiments seeds      run one; resumable: finished runs are not repeated
    python -m selma.experiments seeds --from FOLDER    read runs made elsewhere: FOLDER/<run>/params.yaml, metrics/

Each run is a DVC experiment of its own, `<set>-<run>-<digest>`; the digest covers params.yaml, dvc.yaml, dvc.lock and
the run's settings, so changing any of them makes new experiments, and old ones keep their names. Results that runs
share come from DVC's run cache.

reads   experiments.yaml, params.yaml, and metrics/ of every run
writes  metrics/study/<set>.json    every run's scores and gains; with `pool`, gains over prompts and runs
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from tabulate import tabulate

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.ground.schema import build, section
from selma.reporting.table import gain_text
from selma.runtime import command
from selma.runtime.facts import flatten
from selma.runtime.params import Params, benchmark_of, build_params
from selma.runtime.schema import NAME, NAME_WORDS, Name, load_yaml, overridden
from selma.scoring.seeds import over_seeds
from selma.scoring.summary import interval, over

FILE, FOLDER = Path("experiments.yaml"), Path("metrics/study")
PIPELINE = ("params.yaml", "dvc.yaml", "dvc.lock")

Settings = dict[str, Any]  # dotted key of params.yaml -> value
ItemScores = Mapping[str, Mapping[str, float]]  # by model, then by item


@section
class Set:
    """A set of runs; see experiments.yaml."""

    desc: str
    runs: Annotated[dict[Name, Settings], Field(min_length=1)]
    set: Settings = Field(default_factory=dict)
    pool: bool = False


def main(arguments: list[str]) -> int:
    """Run the named set, or list the sets; exit code 2 with one line for bad input."""
    return command.run(
        lambda: _main(arguments), interrupted="interrupted: run the same command again to resume"
    )


def _main(arguments: list[str]) -> None:
    sets = load_sets()
    folder = Path(arguments[2]) if len(arguments) == 3 and arguments[1] == "--from" else None
    if (len(arguments) > 1 and folder is None) or (arguments and arguments[0].startswith("-")):
        raise UserError("usage: python -m selma.experiments [SET [--from FOLDER]]")
    if not arguments:
        rows = [(name, len(found.runs), found.desc) for name, found in sets.items()]
        print(tabulate(rows, ["set", "runs", "description"], maxcolwidths=[None, None, 90]))
        return
    name = arguments[0]
    if name not in sets:
        raise UserError(f"{FILE}: unknown set {name}; allowed: {', '.join(sets)}")
    run_set(name, sets[name], check_runs(name, sets[name]), folder)


def load_sets(path: Path = FILE) -> dict[str, Set]:
    """The sets in experiments.yaml; raises UserError for one that is not written as a set."""
    found = load_yaml(path)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: must be a mapping of sets")
    for name in found:
        if not re.fullmatch(NAME, str(name)):
            raise UserError(f"{path}: set {name!r}; it must be {NAME_WORDS}")
    return {str(name): build(Set, value, where=f"{path}, {name}") for name, value in found.items()}


def check_runs(name: str, found: Set, path: Path = FILE) -> Params:
    """The first run's params. A typo in the last run must not cost the time of the first.

    Raises UserError unless DVC can set every run's settings, params.yaml is valid with them and, where runs are pooled,
    all examine the same models on the same prompts.
    """
    params = load_yaml(Path("params.yaml"))
    runs: list[Params] = []
    for run, own in found.runs.items():
        where, settings = f"{path}, {name}, run {run}", {**found.set, **own}
        try:
            overrides(settings)
            changed = overridden(params, flatten(settings))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        runs.append(build_params(changed, where=where))
        if found.pool and _examined(runs[-1]) != _examined(runs[0]):
            raise UserError(
                f"{where}: pooled runs need the same names in models, pairs in compare and leading benchmark"
            )
    return runs[0]


def _examined(params: Params) -> tuple[Any, ...]:
    """What a pooled gain needs to be the same in every run."""
    return list(params.models), params.compare, benchmark_of(params, params.evaluate.benchmarks[0])


def overrides(settings: Settings) -> list[str]:
    """Settings as `dvc exp run --set-param` takes them; ++: also where the key is optional.

    Raises UserError for a value that DVC's grammar would read as something else: it has no escapes, fills in ${...},
    and can neither empty a mapping nor replace it as a whole.
    """
    words = []
    for key, value in flatten(settings).items():
        text = json.dumps(value, ensure_ascii=False)
        if any(sign in text for sign in "\\{}"):
            raise UserError(
                f"{key} is {value!r}; a set's values are numbers, true, false, null, text without quotes, backslashes "
                "and braces, and lists of these"
            )
        words.append(f"++{key}={text}")
    return words


def run_set(name: str, found: Set, params: Params, folder: Path | None = None) -> None:
    """Run what is missing; metrics/study/<name>.json is written after every run, with what is still to come.

    With `folder`, nothing runs: every run is read from folder/<run>, which must have been made with its settings.
    """
    kept = ("benchmark", "judge", "drawing", "n_prompts", "images_per_prompt", "models", "gains")
    report: dict[str, Any] = {"desc": found.desc, "runs": {}}
    scores: dict[str, ItemScores] = {}
    for run, own in found.runs.items():
        settings = {**found.set, **own}
        read = _experiment(name, run, settings) if folder is None else _elsewhere(folder / run, settings)
        summary = json.loads(read("metrics/eval.json"))
        report["runs"][run] = {"settings": settings, **{key: summary[key] for key in kept}}
        scores[run] = _items(read("metrics/items.csv"))
        report["unfinished"] = [other for other in found.runs if other not in scores]
        if found.pool and len(scores) > 1:
            report["pooled"] = pool(scores, params)
        write_json(FOLDER / f"{name}.json", report)
    print(table(report))
    print(f"\nwrote {FOLDER / f'{name}.json'}")


def pool(scores: Mapping[str, ItemScores], params: Params) -> dict[str, Any]:
    """Means over prompts and runs, and every compared pair's gain with its interval over prompts AND runs."""
    models = [name for name in params.models if all(name in found for found in scores.values())]
    items = list(next(iter(scores.values()))[models[0]])
    found = {
        name: np.array([[run[name][item] for item in items] for run in scores.values()])  # [runs, items]
        for name in models
    }

    def pooled(values: np.ndarray) -> dict[str, float]:
        return interval(over_seeds(values))

    return {
        "models": {name: pooled(values) for name, values in found.items()},
        "gains": {over(a, b): pooled(found[a] - found[b]) for a, b in params.compare},
    }


def table(report: Mapping[str, Any]) -> str:
    """Every run's gains, and the pooled ones, for a terminal."""
    found = {**report["runs"], **({"pooled": report["pooled"]} if "pooled" in report else {})}
    pairs = list(dict.fromkeys(pair for result in found.values() for pair in result["gains"]))
    rows = [
        [run, *(gain_text(result["gains"][pair]) if pair in result["gains"] else "" for pair in pairs)]
        for run, result in found.items()
    ]
    return tabulate(rows, ["run", *pairs], disable_numparse=True)


def _elsewhere(folder: Path, settings: Settings) -> Callable[[str], str]:
    """A reader of a run's files in a folder; raises UserError unless its params are these with `settings`."""
    wanted = flatten(overridden(load_yaml(Path("params.yaml")), flatten(settings)))
    found = flatten(load_yaml(folder / "params.yaml"))
    for key in [*wanted, *found]:
        if wanted.get(key) != found.get(key):
            raise UserError(
                f"{folder}/params.yaml: {key} is {found.get(key)!r}; this run needs {wanted.get(key)!r}"
            )

    def read(path: str) -> str:
        try:
            return (folder / path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{folder / path}: cannot be read ({error.strerror})") from None

    return read


def _experiment(name: str, run: str, settings: Settings) -> Callable[[str], str]:
    """A reader of the files that a run's experiment left in git; it is run first if it does not exist."""
    pipeline = [Path(file).read_text(encoding="utf-8") for file in PIPELINE]
    digest = hashlib.sha256(
        "\0".join([*pipeline, json.dumps(settings, sort_keys=True)]).encode()
    ).hexdigest()[:10]
    experiment = f"{name}-{run}-{digest}"
    if (there := _reference(experiment)) is None:
        words = ["dvc", "exp", "run", "--temp", "--name", experiment]
        for override in overrides(settings):
            words += ["--set-param", override]
        print(shlex.join(words), file=sys.stderr, flush=True)
        if subprocess.run(words).returncode:
            raise UserError(
                f"{name}, run {run}: `dvc exp run` failed; fix the error above and run the set again"
            )
        there = _reference(experiment)
    if there is None:
        raise UserError(
            f"{name}, run {run}: `dvc exp run` produced no experiment {experiment}; is the repository clean?"
        )
    return lambda path: _output(["git", "show", f"{there}:{path}"])


def _reference(experiment: str) -> str | None:
    """The git reference of a DVC experiment of this name, the newest one; None if it does not exist."""
    names = _output(["git", "for-each-ref", "--format=%(refname)", "--sort=-committerdate", "refs/exps"])
    return next((ref for ref in names.split() if ref.endswith(f"/{experiment}")), None)


def _items(text: str) -> dict[str, dict[str, float]]:
    """metrics/items.csv as scores by model and item."""
    found: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        for model in row.keys() - {"item", "skill"}:
            found.setdefault(model, {})[row["item"]] = float(row[model])
    return found


def _output(words: list[str]) -> str:
    """What git prints; raises UserError where it fails: no repository, or a file that an experiment lacks."""
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        raise UserError(f"`{shlex.join(words)}` failed: {error.stderr}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
