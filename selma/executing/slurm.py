"""Units as jobs of SLURM, by submitit: those that are ready together are one array. `cluster=local` needs no SLURM."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.executing.units import LOST, Handle, Unit, run_unit
from selma.ground.errors import UserError
from selma.runtime.parent import tie

FOLDER = Path(".work/submitit")  # submitit's own files: what it calls, and the job's streams


@dataclass
class _Job:
    job: Any
    local: bool

    def poll(self) -> int | None:
        """submitit asks SLURM about all jobs at once, and not more often than it should be asked."""
        if not self.job.done():
            return None
        if self.local and not self.job.paths.result_pickle.exists():  # no network file system to wait for
            return LOST
        if self.job.exception() is not None:  # it never came back: preempted, over its time, a node that died
            return LOST
        return int(self.job.result())

    def stop(self) -> None:
        if (
            self.local
        ):  # submitit's own way, Ctrl-C, leaves the job's children; a local job's number is its process
            with suppress(ProcessLookupError):
                os.kill(int(self.job.job_id), signal.SIGKILL)
        else:
            self.job.cancel()


class Slurm:
    """Jobs of a cluster whose nodes share this folder."""

    def __init__(self, workers: int, settings: Mapping[str, str]) -> None:
        """`settings` are submitit's own: cluster (slurm, local; default: slurm where srun is found), timeout_min,
        gpus_per_node, cpus_per_task, mem_gb, slurm_partition, ... Raises UserError for what submitit refuses."""
        try:
            import submitit
        except ImportError:
            raise UserError("the executor submitit needs its package: pip install submitit") from None
        own = {key: _value(text) for key, text in settings.items()}
        cluster = own.pop("cluster", None)
        try:
            self.executor = submitit.AutoExecutor(FOLDER, cluster=cluster)
            parallel = {"slurm_array_parallelism": workers} if self.executor.cluster == "slurm" else {}
            self.executor.update_parameters(name="selma", **{"timeout_min": 24 * 60, **parallel, **own})
        except (NameError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"--set: submitit says: {' '.join(str(error).split())}") from None
        self.jobs: list[_Job] = []

    def start(self, units: Sequence[Unit]) -> list[Handle]:
        """Submit units as one array."""
        with self.executor.batch():
            jobs = [self.executor.submit(_run, unit) for unit in units]
        started = [_Job(job, self.executor.cluster == "local") for job in jobs]
        self.jobs += started
        return list(started)

    def close(self) -> None:
        """Cancel what still runs or waits."""
        for job in self.jobs:
            if not job.job.done():
                job.stop()


def _run(unit: Unit) -> int:
    """What a job does. SLURM ends all processes of a job; of one on this machine submitit ends its own alone."""
    if "SLURM_JOB_ID" not in os.environ:
        tie()
    return run_unit(unit)


def _value(text: str) -> str | int:
    return int(text) if text.isdecimal() else text
