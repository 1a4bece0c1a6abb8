"""Units as jobs of SLURM, by submitit: those that are ready together are one array. `cluster=local` needs no SLURM."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selma.executing.local import gpus
from selma.executing.units import LOST, Handle, Unit, not_begun, run_unit
from selma.ground.errors import UserError
from selma.runtime.parent import tie

FOLDER = Path(".work/submitit")  # submitit's own files: what it calls, and the jobs' streams
EVERY = 5.0  # seconds between two questions to squeue
CLUSTERS = ("slurm", "local")
LAG = 90.0  # seconds that a result may take from a node to here: network file systems remember names for a minute


@dataclass
class _Queue:
    """Which jobs SLURM still has, waiting or running. Its accounting (sacct), which submitit asks, is often missing."""

    asked: float = 0.0
    jobs: set[str] | None = None  # None: not known

    def has(self, job: str) -> bool:
        """Whether a job is there; True where SLURM does not say."""
        if time.monotonic() - self.asked > EVERY:
            words = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
            done = subprocess.run(words, capture_output=True, text=True)
            self.jobs = set(done.stdout.split()) if done.returncode == 0 else None
            self.asked = time.monotonic()
        return self.jobs is None or job in self.jobs


@dataclass
class _Job:
    job: Any
    unit: Unit
    queue: _Queue | None  # None: a process of this machine
    gone: float | None = field(default=None)  # since when SLURM does not have it

    def poll(self) -> int | None:
        """The code that the unit returned; LOST where the job never came back: preempted, out of its time or memory, a
        node that died. A job that could not even begin has failed, and its log says why."""
        if self.job.paths.result_pickle.exists():
            error = self.job.exception()
            return int(self.job.result()) if error is None else not_begun(self.unit, error)
        if self.queue is None:
            return LOST if self.job.done() and not self.job.paths.result_pickle.exists() else None
        if self.queue.has(self.job.job_id):
            self.gone = None
            return None
        self.gone = self.gone or time.monotonic()
        return LOST if time.monotonic() - self.gone > LAG else None

    def ended(self) -> bool:
        """Whether nothing of it runs."""
        return self.gone is not None or self.job.paths.result_pickle.exists()

    def stop(self) -> None:
        if self.queue is not None:
            self.job.cancel(check=False)
            return
        # submitit's own way, Ctrl-C, leaves the job's children; a local job's number is its process.
        with suppress(ProcessLookupError):
            os.kill(int(self.job.job_id), signal.SIGKILL)


class Slurm:
    """Jobs of a cluster whose nodes share this folder."""

    def __init__(self, workers: int, settings: Mapping[str, str]) -> None:
        """`settings` are submitit's own: cluster (slurm, local; default: slurm where srun is found), timeout_min,
        gpus_per_node, cpus_per_task, mem_gb, slurm_partition, ... Raises UserError for what submitit refuses."""
        try:
            import submitit
        except ImportError:
            raise UserError("the executor submitit needs its package: pip install submitit") from None
        logging.getLogger("submitit").setLevel(logging.ERROR)
        own = {key: _value(text) for key, text in settings.items()}
        cluster = own.pop("cluster", None)
        if cluster not in (None, *CLUSTERS):
            raise UserError(f"--set cluster={cluster}; allowed: {', '.join(CLUSTERS)}")
        self.name = f"selma-{hashlib.sha256(os.getcwd().encode()).hexdigest()[:8]}"  # of this folder's jobs
        try:
            self.executor = submitit.AutoExecutor(FOLDER, cluster=cluster)
            slurm = self.executor.cluster == "slurm"
            cards = {"gpus_per_node": 1} if not slurm and gpus() else {}
            self.executor.update_parameters(name=self.name, **{"timeout_min": 24 * 60, **cards, **own})
        except (AssertionError, NameError, TypeError, ValueError, RuntimeError) as error:
            shutil.rmtree(FOLDER, ignore_errors=True)
            raise UserError(f"--set: submitit says: {' '.join(str(error).split())}") from None
        print(f"submitit: {self.executor.cluster}, jobs are named {self.name}", flush=True)
        if slurm:
            self._forget_earlier()
        for left in FOLDER.glob("*"):  # of a walk that was stopped, whose jobs have ended
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
        self.queue = _Queue() if slurm else None
        self.walk = None if slurm else os.getpid()
        self.jobs: list[_Job] = []

    def start(self, units: Sequence[Unit]) -> list[Handle]:
        """Submit units as one array. Raises UserError where SLURM takes no job."""
        from submitit.core.utils import FailedJobError

        try:
            with self.executor.batch():
                jobs = [self.executor.submit(_run, unit, self.walk) for unit in units]
        except (FailedJobError, OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"submitit says: {' '.join(str(error).split())[-300:]}") from None
        if self.queue is not None:
            self.queue.asked = 0.0  # what it knew is older than these
        started = [_Job(job, unit, self.queue) for job, unit in zip(jobs, units, strict=True)]
        self.jobs += started
        return list(started)

    def close(self) -> None:
        """Cancel what still runs or waits; where nothing did, submitit's files go."""
        waiting = [job for job in self.jobs if not job.ended()]
        for job in waiting:
            job.stop()
        if not waiting:
            shutil.rmtree(FOLDER, ignore_errors=True)

    def _forget_earlier(self) -> None:
        """Cancel what a walk of this folder has left that was killed itself: it holds the stages' locks."""
        mine = ["--me", f"--name={self.name}"]
        with suppress(OSError):
            subprocess.run(["scancel", *mine], capture_output=True)
            until = time.monotonic() + LAG
            while time.monotonic() < until:
                if not subprocess.run(["squeue", *mine, "--noheader"], capture_output=True).stdout.strip():
                    return
                time.sleep(1.0)


def _run(unit: Unit, walk: int | None) -> int:
    """What a job does. SLURM ends all processes of a job; one on this machine ends with the process `walk`, to which
    submitit does not tie it, and its children with it."""
    if walk is not None:
        tie()
        threading.Thread(target=_end_with, args=(walk,), daemon=True).start()
    return run_unit(unit)


def _end_with(walk: int) -> None:
    """End this process, by which the unit's command ends, too, once that one has ended."""
    while Path(f"/proc/{walk}").exists() or not Path("/proc").is_dir():
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def _value(text: str) -> str | int:
    return int(text) if text.isdecimal() else text
