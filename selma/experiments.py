"""Run a set of pipeline runs from experiments.yaml through `dvc exp run`, and pool their results.

    python -m selma.experiments            list the sets
    python -m selma.experiments seeds      run one; resumable: finished runs are not repeated

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
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from tabulate import tabulate

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.reporting.table import gain_text
from selma.runtime.params import Params, build_params, load_params
from selma.runtime.schema import NAME, Name, build, load_yaml, overridden, section
from selma.runtime.tracking import flatten
from selma.scoring.bootstrap import bootstrap_seeds
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
    try:
        sets = load_sets()
        if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
            raise UserError("usage: python -m selma.experiments [SET]")
        if not arguments:
            print(
                tabulate(
                    [(name, len(found.runs), found.desc) for name, found in sets.items()],
                    ["set", "runs", "description"],
                    maxcolwidths=[None, None, 90],
                )
            )
            return 0
        if arguments[0] not in sets:
            raise UserError(f"{FILE}: unknown set {arguments[0]}; allowed: {', '.join(sets)}")
        check_runs(arguments[0], sets[arguments[0]])
        run_set(arguments[0], sets[arguments[0]], load_params())
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:  # git: no repository, or a file that an experiment lacks
        print(f"error: `{' '.join(error.cmd)}` failed: {' '.join(error.stderr.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130
    return 0


def load_sets(path: Path = FILE) -> dict[str, Set]:
    """The sets in experiments.yaml; raises UserError for one that is not written as a set."""
    found = load_yaml(path)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: must be a mapping of sets")
    for name in found:
        if not re.fullmatch(NAME, str(name)):
            raise UserError(f"{path}: set {name!r}; it must be a name of letters, digits and _ . + -")
    return {str(name): build(Set, value, where=f"{path}, {name}") for name, value in found.items()}


def check_runs(name: str, found: Set, path: Path = FILE) -> None:
    """Raise UserError unless params.yaml is valid with every run's settings: a typo in the last run must not cost
    the time of the first."""
    params = load_yaml(Path("params.yaml"))
    for run, own in found.runs.items():
        where = f"{path}, {name}, run {run}"
        try:
            changed = overridden(params, {**found.set, **own})
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        build_params(changed, where=where)


def run_set(name: str, found: Set, params: Params) -> None:
    """Run what is missing; metrics/study/<name>.json is written after every run, with what is still to come."""
    kept = ("benchmark", "judge", "drawing", "n_prompts", "images_per_prompt", "models", "gains")
    report: dict[str, Any] = {"desc": found.desc, "runs": {}}
    scores: dict[str, ItemScores] = {}
    for run, own in found.runs.items():
        reference = _run(name, run, {**found.set, **own})
        summary = json.loads(_show(reference, "metrics/eval.json"))
        report["runs"][run] = {"settings": {**found.set, **own}, **{key: summary[key] for key in kept}}
        scores[run] = _items(_show(reference, "metrics/items.csv"))
        report["unfinished"] = [other for other in found.runs if other not in scores]
        if found.pool:
            report["pooled"] = pool(scores, params)
        write_json(FOLDER / f"{name}.json", report)
    print(table(report))
    print(f"\nwrote {FOLDER / f'{name}.json'}")


def pool(scores: Mapping[str, ItemScores], params: Params) -> dict[str, Any]:
    """Means over prompts and runs, and every compared pair's gain with its interval over prompts AND runs."""
    models = [name for name in params.models if all(name in found for found in scores.values())]
    bootstrap = {"resamples": params.evaluate.bootstrap, "seed": params.seed}

    def rows(value: Any) -> list[list[float]]:
        items = list(next(iter(scores.values()))[models[0]])
        return [[value(found, item) for item in items] for found in scores.values()]

    return {
        "models": {
            name: interval(
                bootstrap_seeds(rows(lambda found, item, name=name: found[name][item]), **bootstrap)
            )
            for name in models
        },
        "gains": {
            over(a, b): interval(
                bootstrap_seeds(
                    rows(lambda found, item, a=a, b=b: found[a][item] - found[b][item]), **bootstrap
                )
            )
            for a, b in params.compare
        },
    }


def table(report: Mapping[str, Any]) -> str:
    """Every run's gains, and the pooled ones, for a terminal."""
    found = {**report["runs"], **({"pooled": report["pooled"]} if "pooled" in report else {})}
    pairs = list(next(iter(found.values()))["gains"])
    rows = [[run, *(gain_text(result["gains"][pair]) for pair in pairs)] for run, result in found.items()]
    return tabulate(rows, ["run", *pairs], disable_numparse=True)


def _run(name: str, run: str, settings: Settings) -> str:
    """The git reference of a run's experiment, which is run first if it does not exist."""
    pipeline = [Path(file).read_text(encoding="utf-8") for file in PIPELINE]
    digest = hashlib.sha256(
        "\0".join([*pipeline, json.dumps(settings, sort_keys=True)]).encode()
    ).hexdigest()[:10]
    experiment = f"{name}-{run}-{digest}"
    if (there := _reference(experiment)) is None:
        command = ["dvc", "exp", "run", "--temp", "--name", experiment]
        for key, value in flatten(settings).items():
            command += ["--set-param", f"++{key}={json.dumps(value)}"]  # ++: also where the key is optional
        print(" ".join(command), file=sys.stderr, flush=True)
        if subprocess.run(command).returncode:
            raise UserError(
                f"{name}, run {run}: `dvc exp run` failed; fix the error above and run the set again"
            )
        there = _reference(experiment)
    if there is None:
        raise UserError(
            f"{name}, run {run}: `dvc exp run` produced no experiment {experiment}; is the repository clean?"
        )
    return there


def _reference(experiment: str) -> str | None:
    """The git reference of a DVC experiment of this name, the newest one; None if it does not exist."""
    names = _output(["git", "for-each-ref", "--format=%(refname)", "--sort=-committerdate", "refs/exps"])
    return next((ref for ref in names.split() if ref.endswith(f"/{experiment}")), None)


def _show(reference: str, path: str) -> str:
    """A file as an experiment left it."""
    return _output(["git", "show", f"{reference}:{path}"])


def _items(text: str) -> dict[str, dict[str, float]]:
    """metrics/items.csv as scores by model and item."""
    found: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        for model in row.keys() - {"item", "skill"}:
            found.setdefault(model, {})[row["item"]] = float(row[model])
    return found


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
