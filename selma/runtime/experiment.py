"""One run of the pipeline as a DVC experiment, made by `dvc exp run` where it does not exist yet.

It is named `<set>-<run>-<digest>`; the digest covers params.yaml, dvc.yaml, dvc.lock, the run's settings and its
targets, so changing any of them makes another experiment, and old ones keep their names.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.runtime import finished
from selma.runtime.facts import flatten

PIPELINE = ("params.yaml", "dvc.yaml", "dvc.lock")

Settings = dict[str, Any]  # dotted key of params.yaml, or nested mappings of them -> value


def run_one(set_name: str, run_name: str, settings: Settings, targets: Sequence[str] = ()) -> str:
    """The git reference of a run's experiment; it is run first if it does not exist, and the command is printed.

    `targets` are stages or groups of dvc.yaml, none is all of them. Raises UserError for settings that DVC cannot take,
    and for a run that fails.
    """
    experiment = f"{set_name}-{run_name}-{_digest(settings, targets)}"
    if (there := reference(experiment)) is None:
        words = ["dvc", "exp", "run", "--temp", "--name", experiment]
        for override in overrides(settings):
            words += ["--set-param", override]
        words += targets
        print(shlex.join(words), file=sys.stderr, flush=True)
        if subprocess.run(words).returncode:
            raise UserError(
                f"{set_name}, run {run_name}: `dvc exp run` failed; fix the error above and run the set again"
            )
        there = reference(experiment)
        finished.forget_experiments()
    if there is None:
        raise UserError(
            f"{set_name}, run {run_name}: `dvc exp run` produced no experiment {experiment}; "
            "is the repository clean?"
        )
    return there


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


def output(words: list[str]) -> str:
    """What git prints; raises UserError where it fails: no repository, or a file that an experiment lacks."""
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        raise UserError(f"`{shlex.join(words)}` failed: {error.stderr}") from None


def _digest(settings: Settings, targets: Sequence[str]) -> str:
    pipeline = [Path(file).read_text(encoding="utf-8") for file in PIPELINE]
    parts = [*pipeline, json.dumps(settings, sort_keys=True), *targets]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def reference(experiment: str) -> str | None:
    """The git reference of a DVC experiment of this name, the newest one; None if it does not exist."""
    names = output(["git", "for-each-ref", "--format=%(refname)", "--sort=-committerdate", "refs/exps"])
    return next((ref for ref in names.split() if ref.endswith(f"/{experiment}")), None)
