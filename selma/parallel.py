"""Run what `dvc repro` would run, several stages at once, on several GPUs, on SLURM or on Ray; then `dvc repro`.

    python -m selma.parallel                               every stage that is out of date, two at once or one per GPU
    python -m selma.parallel --shards 4 sample             as far as the stages `sample`; images in four parts
    python -m selma.parallel --executor submitit --set slurm_partition=gpu --set gpus_per_node=1 --workers 16
    python -m selma.parallel --executor ray --set num_gpus=1

DVC says what is out of date, stage by stage, as it would itself. The stages run without it and keep what they make in
.work/finished; `dvc repro` after it puts that in place and writes dvc.lock, the same as if it had run all of them.
A unit (a stage, or a shard of one) that is killed, or whose machine is lost, is run again, and goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from selma.executing.graph import Pipeline
from selma.executing.local import Local, gpus
from selma.executing.rays import Ray
from selma.executing.slurm import Slurm
from selma.executing.units import Executor
from selma.executing.walk import Walk
from selma.ground.errors import UserError
from selma.planning.own import check_own
from selma.runtime import command
from selma.runtime.dvcfile import load_stages
from selma.runtime.finished import forget_others
from selma.runtime.lockfile import restore
from selma.runtime.params import load_params
from selma.runtime.work import alone

EXECUTORS: Mapping[str, Callable[[int, Mapping[str, str]], Executor]] = {
    "local": Local,
    "submitit": Slurm,
    "ray": Ray,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the walk, then `dvc repro`; exit code 2 with one line for bad input and where a stage fails."""
    parser = command.Parser(
        prog="python -m selma.parallel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", help="stages, as `dvc repro` takes them (default: all)")
    parser.add_argument(
        "--executor", choices=EXECUTORS, default="local", help="where units run (default: local)"
    )
    parser.add_argument("--workers", type=int, help="units at once (default: one per GPU, else 2)")
    parser.add_argument(
        "--shards", type=int, default=1, help="parts of each stage that draws images (default: 1)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the executor"
    )
    parser.add_argument(
        "--no-repro", action="store_true", help="leave the last step, `dvc repro`, to yourself"
    )
    given = parser.parse_args(arguments)
    return command.run(lambda: _main(given), interrupted="interrupted: run the same command again to resume")


def _main(given: argparse.Namespace) -> None:
    if wrong := next((setting for setting in given.set if "=" not in setting), None):
        raise UserError(f"--set: {wrong}; it must be KEY=VALUE, e.g. slurm_partition=gpu")
    settings = dict(setting.split("=", 1) for setting in given.set)
    workers = given.workers if given.workers is not None else (len(gpus(settings.get("gpus"))) or 2)
    for option, value in (("--workers", workers), ("--shards", given.shards)):
        if value < 1:
            raise UserError(f"{option}: {value}; allowed: 1 or more")
    check_own(load_params())
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # a scheduler's way to say Ctrl-C
    with alone("selma.parallel"):
        restore()
        pipeline = Pipeline(given.targets)
        pipeline.check()
        forget_others(load_stages(Path.cwd()))
        began = time.monotonic()
        with pipeline.reserved():
            executor = EXECUTORS[given.executor](workers, settings)
            walk = Walk(pipeline, executor, workers, given.shards, say=lambda line: print(line, flush=True))
            try:
                ran = walk.run()
            finally:
                executor.close()
        took = time.monotonic() - began
        stages = "stage" if len(ran) == 1 else "stages"
        print(
            f"{len(ran)} {stages} ran, {sum(walk.seconds.values()):.0f} s of units in {took:.0f} s",
            flush=True,
        )
    if given.no_repro:
        return
    print("dvc repro: it finds them done, and writes dvc.lock", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "selma.dvc", "repro", *given.targets])


if __name__ == "__main__":
    sys.exit(main())
