"""Units as processes of this machine: `workers` at once, each on its own GPU where there are several."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selma.executing.units import Handle, Unit, popen
from selma.ground.errors import UserError

PATIENCE = 10.0  # seconds for a stage to end at SIGTERM


@dataclass
class _Process:
    child: subprocess.Popen[bytes]
    slot: int

    def poll(self) -> int | None:
        return self.child.poll()

    def stop(self) -> None:
        if self.child.poll() is None:
            self.child.terminate()


class Local:
    """Processes on this machine. Each takes a slot: its GPU, and its share of the processors."""

    def __init__(self, workers: int, settings: Mapping[str, str]) -> None:
        """`settings`: gpus, their numbers by commas (default: every one that nvidia-smi lists); threads of each process
        (default: OMP_NUM_THREADS, else the processors over the workers). Raises UserError for others."""
        if unknown := set(settings) - {"gpus", "threads"}:
            raise UserError(f"--set {sorted(unknown)[0]}; the local executor has gpus and threads")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        threads = (
            settings.get("threads") or os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // workers))
        )
        if not threads.isdecimal() or int(threads) < 1:
            raise UserError(f"--set threads={threads}; it must be a whole number, 1 or more")
        cards = gpus(settings.get("gpus"))
        self.slots = [{"OMP_NUM_THREADS": threads} for _ in range(workers)]
        for number, variables in enumerate(self.slots if cards else ()):
            variables["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
        self.running: list[_Process] = []

    def start(self, units: Sequence[Unit]) -> list[Handle]:
        """Start units, at most as many as there are free slots."""
        started = []
        for unit in units:
            self.running = [process for process in self.running if process.poll() is None]
            free = set(range(len(self.slots))) - {process.slot for process in self.running}
            slot = min(free)
            started.append(_Process(popen(unit, self.slots[slot]), slot))
            self.running.append(started[-1])
        return list(started)

    def close(self) -> None:
        """End what still runs, by force where it does not end by itself."""
        for process in self.running:
            process.stop()
        for process in self.running:
            try:
                process.child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.child.send_signal(signal.SIGKILL)
                process.child.wait()


def gpus(given: str | None = None) -> list[str]:
    """The GPUs to use, as CUDA_VISIBLE_DEVICES names them: those that are given by commas, else those of that variable,
    else all that nvidia-smi lists; none without it."""
    listed = given if given is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [card.strip() for card in listed.split(",") if card.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return [str(number) for number, line in enumerate(found.stdout.splitlines()) if line.startswith("GPU ")]
