"""Units as tasks of a Ray cluster whose nodes share this folder; without an address, of one that starts here."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selma.executing.units import LOST, Handle, Unit, not_begun, run_unit
from selma.ground.errors import UserError, first_line

PATIENCE = 10.0  # seconds for a cluster's address to answer


@dataclass
class _Task:
    ray: Any
    reference: Any
    unit: Unit

    def poll(self) -> int | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            return int(self.ray.get(self.reference))
        except (self.ray.exceptions.RayTaskError, self.ray.exceptions.RuntimeEnvSetupError) as error:
            return not_begun(self.unit, error)
        except self.ray.exceptions.RayError:  # the worker or its node died
            return LOST

    def stop(self) -> None:
        self.ray.cancel(self.reference, force=True)


class Ray:
    """Tasks of a Ray cluster."""

    def __init__(self, workers: int, settings: Mapping[str, str]) -> None:
        """`settings`: address (default: RAY_ADDRESS, else a cluster of this machine), num_cpus and num_gpus of each
        unit (default: 1, and 1 where the cluster has any). Raises UserError for others, without Ray, and where no
        cluster answers."""
        if unknown := set(settings) - {"address", "num_cpus", "num_gpus"}:
            raise UserError(
                f"--set {sorted(unknown)[0]}; the executor ray has address, num_cpus and num_gpus"
            )
        try:
            import ray
        except ImportError:
            raise UserError(
                "the executor ray needs its package: pip install -r requirements-ray.txt"
            ) from None
        cpus = _number(settings, "num_cpus", 1, 1)
        _number(settings, "num_gpus", 0)  # before anything starts
        address = settings.get("address") or os.environ.get("RAY_ADDRESS")
        # Tasks import selma from this folder. A cluster of one's own gets a slot for each worker.
        if address:
            _answers(address)
        own = {"address": address} if address else {"num_cpus": workers * cpus, "include_dashboard": False}
        try:
            ray.init(runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}}, log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--set address: ray says: {' '.join(str(error).split())[:300]}") from None
        self.ray, self.tasks = ray, []
        cards = _number(settings, "num_gpus", int(ray.cluster_resources().get("GPU", 0) > 0))
        self.run = ray.remote(run_unit).options(num_cpus=cpus, num_gpus=cards, max_retries=0)

    def start(self, units: Sequence[Unit]) -> list[Handle]:
        """Hand units to the cluster."""
        started = [_Task(self.ray, self.run.remote(unit), unit) for unit in units]
        self.tasks += started
        return list(started)

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster."""
        for task in self.tasks:
            if task.poll() is None:
                task.stop()
        self.ray.shutdown()


def _answers(address: str) -> None:
    """Raise UserError where nothing listens at host:port, which Ray would ask for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # auto, local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--set address={address}: nothing answers there ({first_line(error)})") from None


def _number(settings: Mapping[str, str], key: str, default: int, least: int = 0) -> int:
    """A whole number among the settings; raises UserError for anything else."""
    text = settings.get(key, str(default))
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"--set {key}={text}; it must be a whole number, {least} or more")
    return int(text)
