"""Run a set of pipeline runs from experiments.yaml through `dvc exp run`, and pool their results.

    python -m selma.experiments            list the sets
    python -m selma.experiments seeds      run one; resumable: finished runs are not repeated
    python -m selma.experiments seeds --from FOLDER    read runs made elsewhere: FOLDER/<run>/params.yaml, metrics/

Each run is a DVC experiment of its own (selma/runtime/experiment.py says how it is named). Results that runs share
come from DVC's run cache. A set whose targets do not reach the evaluate stage has no scores to report: its runs are
made, and their experiments' names are printed.

reads   experiments.yaml, params.yaml, and metrics/ of every run
writes  metrics/study/<set>.json    every run's scores and gains; with `pool`, gains over prompts and runs
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.reporting.table import gain_text
from selma.runtime import command
from selma.runtime.experiment import Settings, output, run_one
from selma.runtime.facts import flatten
from selma.runtime.params import Params
from selma.runtime.schema import load_yaml, overridden
from selma.runtime.sets import FILE, Set, check_runs, load_sets
from selma.scoring.seeds import over_seeds
from selma.scoring.summary import interval, over

FOLDER = Path("metrics/study")

ItemScores = Mapping[str, Mapping[str, float]]  # by model, then by item


def main(arguments: list[str]) -> int:
    """Run the named set, or list the sets; exit code 2 with one line for bad input."""
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
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


def run_set(name: str, found: Set, params: Params, folder: Path | None = None) -> None:
    """Run what is missing; metrics/study/<name>.json is written after every run, with what is still to come.

    With `folder`, nothing runs: every run is read from folder/<run>, which must have been made with its settings.
    A set whose targets do not reach evaluate is run alone: no scores, no report.
    """
    if not found.scored:
        if folder is not None:
            raise UserError(
                f"{name}: its targets ({', '.join(found.targets)}) do not reach evaluate; no scores to read"
            )
        _run_alone(name, found)
        return
    kept = ("benchmark", "judge", "drawing", "n_prompts", "images_per_prompt", "models", "gains")
    report: dict[str, Any] = {"desc": found.desc, "runs": {}}
    scores: dict[str, ItemScores] = {}
    for run, own in found.runs.items():
        settings = {**found.set, **own}
        read = (
            _reader(run_one(name, run, settings, found.targets))
            if folder is None
            else _elsewhere(folder / run, settings)
        )
        summary = json.loads(read("metrics/eval.json"))
        report["runs"][run] = {"settings": settings, **{key: summary[key] for key in kept}}
        scores[run] = _items(read("metrics/items.csv"))
        report["unfinished"] = [other for other in found.runs if other not in scores]
        if found.pool and len(scores) > 1:
            report["pooled"] = pool(scores, params)
        write_json(FOLDER / f"{name}.json", report)
    print(table(report))
    print(f"\nwrote {FOLDER / f'{name}.json'}")


def _run_alone(name: str, found: Set) -> None:
    """Run what is missing, and print the experiments' names, each as its run ends."""
    for run, own in found.runs.items():
        print(run_one(name, run, {**found.set, **own}, found.targets).rpartition("/")[2], flush=True)
    print(f"\nran {', '.join(found.targets)}; that does not reach evaluate, so there is no report")


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


def _reader(reference: str) -> Callable[[str], str]:
    """A reader of the files that an experiment left in git."""
    return lambda path: output(["git", "show", f"{reference}:{path}"])


def _items(text: str) -> dict[str, dict[str, float]]:
    """metrics/items.csv as scores by model and item."""
    found: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        for model in row.keys() - {"item", "skill"}:
            found.setdefault(model, {})[row["item"]] = float(row[model])
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
