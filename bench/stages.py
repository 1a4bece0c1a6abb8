"""Run the whole pipeline in a copy of this checkout, several stages at once, and say how long each took.

    python -m bench.stages /tmp/copy --jobs 4 --set seed=43

DVC runs one stage after another; here a stage starts as soon as what it depends on is there, so a machine with many
cores or a large GPU is busy. FOLDER then holds a finished run: `python -m selma.experiments SET --from` reads several.
Stages run as `python -m stages.X` does; the frozen `pretrain` is not run, its outs are copied.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML
from tabulate import tabulate

from selma.ground.errors import UserError
from selma.runtime import command
from selma.runtime.dvcfile import Stage, load_stages
from selma.runtime.params import build_params
from selma.runtime.schema import load_yaml, overridden, parse_yaml
from selma.times import measured, totals

CODE = ("selma", "stages", "data/skills", "dvc.yaml", "params.yaml", "models/backbones", "models/clip")


def main(arguments: list[str] | None = None) -> int:
    """Run the pipeline; exit code 2 with one line for bad input, or if a stage fails."""
    parser = command.Parser(prog="python -m bench.stages", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the copy goes; must not exist")
    parser.add_argument("--jobs", type=int, default=1, help="stages at once (default: 1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of params.yaml"
    )
    given = parser.parse_args(arguments)
    return command.run(lambda: _main(given.folder, given.jobs, given.set))


def _main(folder: Path, jobs: int, settings: list[str]) -> None:
    if jobs < 1:
        raise UserError(f"--jobs: {jobs}; allowed: 1 or more")
    copy(folder, settings)
    started = time.monotonic()
    took = run(folder, jobs)
    print(tabulate(sorted(took.items(), key=lambda row: -row[1]), ["stage", "seconds"], floatfmt=".1f"))
    print(f"{sum(took.values()):.0f} s of stages in {time.monotonic() - started:.0f} s, {jobs} at once")
    print(totals(measured(folder)))


def copy(folder: Path, settings: list[str]) -> None:
    """This checkout's code, skills, pretrained backbone and CLIP in a new folder, KEY=VALUE settings in params.yaml.

    Raises UserError, before anything is copied, for a folder that exists and for settings that params.yaml refuses.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; name a folder that does not")
    if wrong := next((setting for setting in settings if "=" not in setting), None):
        raise UserError(f"--set: {wrong}; it must be KEY=VALUE, e.g. seed=43")
    pairs = (setting.split("=", 1) for setting in settings)
    values = {key: parse_yaml(text, where=f"--set {key}") for key, text in pairs}
    params = overridden(load_yaml(Path("params.yaml")), values)
    build_params(params, where="--set")
    for empty in (
        "data/preferences",
        "metrics/human",
    ):  # deps of `evaluate` and `report`, of judges and people
        (folder / empty).mkdir(parents=True)
    for name in CODE:
        if Path(name).is_dir():
            shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(name, folder / name)
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(params, file)


def runnable(folder: Path) -> dict[str, Stage]:
    """The stages to run, by name: all but those that pretrain."""
    pretraining = ("pretrain@", "pretrain_xl@", "pretrain_mm@")
    return {name: stage for name, stage in load_stages(folder).items() if not name.startswith(pretraining)}


def run(folder: Path, jobs: int) -> dict[str, float]:
    """Seconds of every stage, start-up included; raises UserError, and stops the others, if one fails."""
    stages = runnable(folder)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = os.environ | {"SELMA_TRACKING": "off", "OMP_NUM_THREADS": str(threads)}
    waiting, took = list(stages), {}
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    try:
        while waiting or running:
            unmade = [path for name in (*waiting, *running) for path in makes(stages[name])]
            ready = [name for name in waiting if not needs(stages[name], unmade)]
            for name in ready[: jobs - len(running)]:
                waiting.remove(name)
                with open(folder / f"{name}.log", "w") as log:
                    words = [sys.executable, *stages[name].cmd.split()[1:]]
                    child = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
                running[name] = child, time.monotonic()
            time.sleep(0.05)
            for name in [name for name, (child, _) in running.items() if child.poll() is not None]:
                child, started = running.pop(name)
                took[name] = time.monotonic() - started
                if child.returncode:
                    said = (folder / f"{name}.log").read_text(errors="replace").strip().splitlines() or [""]
                    raise UserError(f"{name} failed: {said[-1]} ({folder / f'{name}.log'} has the rest)")
    finally:
        for child, _ in running.values():
            child.terminate()
    return took


def makes(stage: Stage) -> tuple[str, ...]:
    """The paths that a stage writes."""
    return (*stage.outs, *stage.metrics, *stage.plots)


def needs(stage: Stage, unmade: list[str]) -> bool:
    """Whether a stage reads a path that is not made yet, lies above one or below one."""
    return any(
        f"{dep}/".startswith(f"{path}/") or f"{path}/".startswith(f"{dep}/")
        for dep in stage.deps
        for path in unmade
    )


if __name__ == "__main__":
    sys.exit(main())
