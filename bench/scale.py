"""How stages side by side scale: units per second against workers, measured here, or on paper from measured rates.

    python -m bench.scale FOLDER --workers 1 2                           the pipeline in a copy, once for each number
    python -m bench.scale FOLDER --simulate --profile sd2 --set filter.keep=200000 --shards 64 --workers 1 8 64

FOLDER must not exist. Each worker has one thread. On paper the walk of `selma.parallel` goes over the same graph with
clocks in place of processes: each stage takes what `make plan` gives it, by rates measured on this machine or those of
bench/rates.json; what has none is named and takes no time. A shard takes its part, and a worker is never lost.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from bench._arguments import at_least
from selma.executing.units import Handle, Unit
from selma.executing.walk import Walk, heights, sharded
from selma.ground.errors import UserError
from selma.planning import plan
from selma.runtime import command
from selma.runtime.dvcfile import in_order, load_stages, needs
from selma.runtime.params import build_params
from selma.runtime.schema import load_yaml, overridden, parse_yaml

PRETRAINED = ("models/backbones", "models/clip")


def main(arguments: list[str] | None = None) -> int:
    """Print the table; exit code 2 with one line for bad input, or if a run fails."""
    parser = command.Parser(prog="python -m bench.scale", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the copies go; must not exist")
    parser.add_argument(
        "--workers", type=at_least(1), nargs="+", default=[1, 2], help="units at once (default: 1 2)"
    )
    parser.add_argument(
        "--shards", type=at_least(1), default=1, help="parts of stages that draw (default: 1)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of params.yaml"
    )
    parser.add_argument("--profile", help="a profile of profiles/, put over params.yaml before")
    parser.add_argument("--simulate", action="store_true", help="on paper, from measured rates")
    given = parser.parse_args(arguments)
    return command.run(lambda: _main(given))


def _main(given: argparse.Namespace) -> None:
    if given.folder.exists():
        raise UserError(f"{given.folder} exists; name a folder that does not")
    first = copy(
        given.folder / "plan" if given.simulate else given.folder / str(given.workers[0]),
        given.set,
        given.profile,
    )
    if given.simulate:
        print(on_paper(first, given.workers, given.shards))
        return
    rows: list[tuple[int, int, float, float]] = []
    for number in given.workers:
        root = given.folder / str(number)
        if root != first:
            copy(root, given.set, given.profile)
        rows.append((number, *measure(root, number, given.shards)))
    alone = rows[0][2]
    body = [
        (number, ran, wall, ran / wall, alone / wall, work / wall / number)
        for number, ran, wall, work in rows
    ]
    print(
        tabulate(body, ["workers", "stages", "seconds", "stages/s", "times as fast", "busy"], floatfmt=".2f")
    )


def copy(folder: Path, settings: Sequence[str], profile: str | None = None) -> Path:
    """This checkout's files and pretrained backbones in a new folder, a git repository, with other settings.

    Raises UserError, before anything is copied, for settings that params.yaml refuses and an unknown profile.
    """
    if wrong := next((setting for setting in settings if "=" not in setting), None):
        raise UserError(f"--set: {wrong}; it must be KEY=VALUE, e.g. filter.keep=1000")
    pairs = (setting.split("=", 1) for setting in settings)
    values = {key: parse_yaml(text, where=f"--set {key}") for key, text in pairs}
    profiles = sorted(path.stem for path in Path("profiles").glob("*.yaml"))
    if profile is not None and profile not in profiles:
        raise UserError(f"--profile {profile}; allowed: {', '.join(profiles)}")
    if profile is None:
        build_params(overridden(load_yaml(Path("params.yaml")), values), where="--set")
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if Path(name).is_file() and not name.startswith("models/starter/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)
    for name in PRETRAINED if profile is None else ():
        if Path(name).is_dir():
            shutil.copytree(name, folder / name, dirs_exist_ok=True)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    if profile is not None:
        words = [sys.executable, "-m", "selma.profile", profile]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"--profile {profile}: {done.stderr.strip()}")
    if values:
        from ruamel.yaml import YAML

        params = overridden(load_yaml(folder / "params.yaml"), values)
        build_params(params, where="--set")
        with open(folder / "params.yaml", "w", encoding="utf-8") as file:
            YAML().dump(params, file)
    return folder


def measure(root: Path, workers: int, shards: int) -> tuple[int, float, float]:
    """Stages that ran, seconds that it took, and seconds of work, of `selma.parallel` in a fresh copy."""
    words = ["-m", "selma.parallel", "--workers", str(workers), "--shards", str(shards), "--set", "threads=1"]
    done = subprocess.run([sys.executable, *words, "--no-repro"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{root}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    said = re.search(r"^(\d+) stages? ran, ([\d.]+) s of units in ([\d.]+) s$", done.stdout, re.MULTILINE)
    assert said, done.stdout
    return int(said[1]), float(said[3]), float(said[2])


# On paper -----------------------------------------------------------------------------------------


@dataclass
class _Paper:
    """The pipeline's graph, all of it to be made."""

    needs: dict[str, list[str]]
    commands: Mapping[str, str]
    seconds: Mapping[str, float]

    def height(self) -> dict[str, float]:
        """Seconds of the longest chain from a stage on, itself included."""
        return heights(self.needs, self.seconds)

    def outdated(self, name: str) -> bool:
        return True

    def prepare(self, name: str) -> bool:
        return True

    def command(self, name: str) -> str:
        return self.commands[name]


@dataclass
class _Clocks:
    """Workers on paper: a unit ends when its time has passed."""

    seconds: Callable[[Unit], float]
    now: float = 0.0
    busy: float = 0.0
    ends: list[float] = field(default_factory=list)

    def start(self, units: Sequence[Unit]) -> list[Handle]:
        started = []
        for unit in units:
            self.busy += self.seconds(unit)
            self.ends.append(self.now + self.seconds(unit))
            started.append(_End(self, self.ends[-1]))
        return list(started)

    def rest(self) -> None:
        """Go on to the next end."""
        self.ends = [end for end in self.ends if end > self.now]
        self.now = min(self.ends, default=self.now)

    def close(self) -> None:
        """Nothing runs."""


@dataclass
class _End:
    clocks: _Clocks
    at: float

    def poll(self) -> int | None:
        return 0 if self.clocks.now >= self.at else None

    def stop(self) -> None:
        """It does not run."""


def on_paper(root: Path, workers: Sequence[int], shards: int) -> str:
    """The table of a walk over all of the pipeline in `root`, for each number of workers."""
    with chdir(root):  # DVC names stages as seen from where it is called
        made = plan.make(Path(), whole=True)
    stages = load_stages(root)
    lines = {line.name: line for line in made.lines}
    order = [name for name in in_order(stages) if name in lines]
    needed = {name: [other for other in found if other in lines] for name, found in needs(stages).items()}
    seconds = {name: lines[name].estimate.seconds or 0.0 for name in order}
    graph = _Paper(
        {name: needed[name] for name in order}, {name: stages[name].cmd for name in order}, seconds
    )

    def of(unit: Unit) -> float:
        if unit.name != unit.stage:
            return seconds[unit.stage] / shards
        return 0.0 if shards > 1 and sharded(stages[unit.stage].cmd) else seconds[unit.stage]

    rows: list[list[object]] = []
    for number in workers:
        clocks = _Clocks(of)
        quiet = {"say": lambda line: None, "logs": root / "logs"}
        Walk(graph, clocks, number, shards, clock=lambda: clocks.now, rest=clocks.rest, **quiet).run()  # noqa: B023
        alone = rows[0][1] if rows else clocks.now / 3600
        rows.append(
            [
                number,
                clocks.now / 3600,
                alone / (clocks.now / 3600 or 1),
                clocks.busy / number / (clocks.now or 1),
            ]
        )
    longest = max(graph.height().values()) / 3600
    images = sum(lines[name].work.images for name in order)
    untimed = sorted({lines[name].kind for name in order if lines[name].estimate.seconds is None})
    notes = [
        f"{len(order)} stages, {images:,} images; the longest chain of stages, unsharded, takes {longest:.1f} h",
        f"rates of: {', '.join(made.machines) or 'none'}",
        *([f"not timed, and left out: {', '.join(untimed)}"] if untimed else []),
    ]
    table = tabulate(rows, ["workers", "hours", "times as fast", "busy"], floatfmt=",.2f")
    return "\n".join([table, *notes])


if __name__ == "__main__":
    sys.exit(main())
